"""What fixes may do to a job, and why: told before anything runs, from what is known of its nodes here."""

from __future__ import annotations

import re
from collections.abc import Iterator

from msgspec.structs import replace

from runner import facts as facts_
from runner import fixing, ports
from runner.facts import Facts, Folder, Interface
from runner.launch import Launch
from runner.runs import INSIDE
from slurm.clusters import Cluster

RAY = "2.57.0"
"""Taken for the image's, which is not opened here."""
UNITS = {"": 20, "K": 10, "M": 20, "G": 30, "T": 40}


def explained(plan: Launch, cluster: Cluster, ours: bool) -> Iterator[str]:
    """Each fix that applies, with its reason. On a cluster the nodes are those of its profile: what only a
    node itself knows may add or take away some. ours: the image is, so it has a locale and Ray.
    """
    image = {"LANG": "C.UTF-8"} if ours else {}
    if cluster.scheduler == "none":
        with ports.held(f"{plan.run_id}-0") as base:
            seen = facts_.gather(0, plan.nodes, base)
    else:
        seen = profiled(plan, cluster)
        yield f"# of a node as the profile has it; what a node itself finds may differ: {cluster.summary}"
    # Of the container only this much is known here: nothing of this shell is in it.
    seen = replace(seen, env=image, ray=RAY if plan.ray else None)
    if plan.ray:
        plan = replace(plan, ray=replace(plan.ray, token_file=f"{INSIDE}/ray.token"))
    for fix in fixing.fixed(seen, plan)[1]:
        yield f"fix {fix.name}: {fix.reason}"


def profiled(plan: Launch, cluster: Cluster) -> Facts:
    """The first node of a job as a cluster's profile describes it. Pure."""
    cpus = cluster.cpus_per_node or 1
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
        interfaces=(Interface("lo", "127.0.0.1"), Interface(name, "10.0.0.1")),
        temporary=(Folder("/tmp", True, 50 << 30),),
        env={},
        port_base=20000,
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
