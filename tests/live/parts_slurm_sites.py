"""A site's cluster as its profile tells it, for a controller that judges job scripts."""

from __future__ import annotations

import re

from slurm.clusters import Cluster, Partition
from tests.live.parts_slurm_conf import Shape

NODES = 16  # where a profile does not say how many there are; more than this are never made
CPUS, MEMORY = 64, 512_000


def shapes_of(cluster: Cluster, *, nodes: int = NODES) -> tuple[Shape, ...]:
    """The cluster's partitions, the default one first; its excluded nodes are in that one."""
    partitions = dict(cluster.partitions)
    first = cluster.partition or next(iter(partitions), "main")
    partitions = {first: partitions.pop(first, Partition()), **partitions}
    shapes = [
        _shape(cluster, name, partition, number, nodes)
        for number, (name, partition) in enumerate(partitions.items())
    ]
    if left_out := tuple(name for each in cluster.exclude for node in each.nodes for name in expanded(node)):
        lacks = Shape(partitions=(first,), names=left_out, gres=shapes[0].gres, cpus=shapes[0].cpus)
        shapes.append(lacks)
    return tuple(shapes)


def _shape(cluster: Cluster, name: str, partition: Partition, number: int, nodes: int) -> Shape:
    gpus = partition.gpus_per_node if partition.gpus_per_node is not None else cluster.gpus_per_node
    kind = partition.gpu_type or cluster.gpu_type
    exclusive = cluster.exclusive if partition.exclusive is None else partition.exclusive
    constraint = cluster.sbatch.get("constraint")
    return Shape(
        partitions=(name,),
        prefix=f"p{number}n",
        count=min(partition.nodes or nodes, nodes),
        cpus=partition.cpus_per_node or cluster.cpus_per_node or CPUS,
        memory=megabytes(partition.memory_per_node or cluster.memory_per_node),
        gres=":".join(["gpu", *([kind] if kind else []), str(gpus)]) if gpus else None,
        features=tuple(re.findall(r"[\w-]+", str(constraint))) if constraint else (),
        limit=partition.time_limit or "UNLIMITED",
        exclusive=exclusive,
    )


def megabytes(text: str | None) -> int:
    """Of "480G" and the like, as Slurm writes it."""
    if text is None:
        return MEMORY
    found = re.fullmatch(r"(\d+)([KMGT]?)B?", text.strip(), re.IGNORECASE)
    assert found, f"no amount of memory: {text}"
    return int(int(found[1]) * {"K": 1 / 1024, "": 1, "M": 1, "G": 1024, "T": 1024**2}[found[2].upper()])


def expanded(names: str) -> list[str]:
    """jwb[0001-0003,0007] -> its names; a name without brackets is itself."""
    found = re.fullmatch(r"(.*)\[([\d,-]+)\](.*)", names)
    if not found:
        return [names]
    out = []
    for part in found[2].split(","):
        low, _, high = part.partition("-")
        width = len(low)
        out += [f"{found[1]}{each:0{width}}{found[3]}" for each in range(int(low), int(high or low) + 1)]
    return out
