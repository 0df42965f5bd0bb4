"""What fixes may do to a job, and why: told before anything runs, from what is known of its nodes here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from msgspec.structs import replace

from runner import facts as facts_
from runner import fixing, ports
from runner.facts import Facts, Folder, Interface
from runner.launch import Launch
from runner.runs import INSIDE
from slurm.clusters import Cluster

RAY = "2.57.0"
"""Taken for the image's, which is not opened here."""
ADDRESS, CPUS, PORT = "192.0.2.1", 4099, 20000
"""Stand for what a node alone can say: an address for documentation, and numbers that are no real node's."""
UNITS = {"": 20, "K": 10, "M": 20, "G": 30, "T": 40}


def explained(plan: Launch, cluster: Cluster, ours: bool) -> Iterator[str]:
    """Each fix that applies, with its reason. On a cluster the nodes are those of its profile: what only a
    node itself knows may add or take away some, and is told as ‹what it is›.

    ours: the image is, so it has a locale and Ray.
    """
    image = {"LANG": "C.UTF-8"} if ours else {}
    invented: dict[str, str] = {}
    if cluster.scheduler == "none":
        with ports.held(f"{plan.run_id}-0") as base:
            seen = facts_.gather(0, plan.nodes, base)
    else:
        seen = profiled(plan, cluster)
        invented = _invented(plan, cluster, seen)
        yield f"# of a node as the profile has it: {cluster.summary}"
        yield "# what stands in ‹ › is for the node to say; what it finds may add or take away some"
    # Of the container only this much is known here: nothing of this shell is in it.
    seen = replace(seen, env=image, ray=RAY if plan.ray else None)
    if plan.ray:
        plan = replace(plan, ray=replace(plan.ray, token_file=f"{INSIDE}/ray.token"))
    for fix in fixing.fixed(seen, plan)[1]:
        yield f"fix {fix.name}: {_marked(fix.reason, invented)}"


def _invented(plan: Launch, cluster: Cluster, seen: Facts) -> dict[str, str]:
    """What no profile says of a node, as it stands in reasons -> in words."""
    name = seen.interfaces[-1].name
    return {
        ADDRESS: "‹its address›",
        str(PORT): "‹a port›",
        str(CPUS): "‹its CPUs›",
        plan.run_id: "‹run›",
        **({name: f"‹{cluster.interface or 'its interface'} …›"} if name != cluster.interface else {}),
    }


def _marked(reason: str, invented: Mapping[str, str]) -> str:
    for value, words in invented.items():
        reason = re.sub(rf"(?<![\w.]){re.escape(value)}(?![\w])", words, reason)
    return reason


def profiled(plan: Launch, cluster: Cluster) -> Facts:
    """The first node of a job as a cluster's profile describes it. Pure."""
    cpus = cluster.cpus_per_node or CPUS
    memory = _bytes(cluster.memory_per_node) or (64 << 30)
    name = (cluster.interface or "eth0") + ("0" if cluster.interface in ("hsn", "ib") else "")
    kind = (cluster.gpu_type or "GPU").upper()
    uuids = [f"GPU-00000000-0000-0000-0000-{number:012}" for number in range(plan.gpus or 0)]
    return Facts(
        rank=0,
        nodes=plan.nodes,
        hostname="node",
        cpus=cpus,
        memory=memory,
        shm_free=memory // 2,
        interfaces=(Interface("lo", "127.0.0.1"), Interface(name, ADDRESS)),
        temporary=(Folder("/tmp", True, 50 << 30),),
        env={},
        port_base=PORT,
        gpus=tuple(f"GPU {number}: NVIDIA {kind} (UUID: {uuid})" for number, uuid in enumerate(uuids)),
        driver=cluster.driver.version if cluster.driver and uuids else None,
        step={
            "SLURM_JOB_ID": "1",
            "SLURM_NODEID": "0",
            "SLURM_JOB_NUM_NODES": str(plan.nodes),
            "SLURM_CPUS_ON_NODE": str(cpus),
            **({"CUDA_VISIBLE_DEVICES": ",".join(map(str, range(len(uuids))))} if uuids else {}),
        },
    )


def _bytes(size: str | None) -> int | None:
    """Of a memory size as Slurm writes it: 480G, 500000 (megabytes); None for none, or another form."""
    found = re.fullmatch(r"(\d+)([KMGT]?)B?", size or "", re.IGNORECASE)
    return int(found[1]) << UNITS[found[2].upper()] if found else None
