"""Sandboxes as a part of a job: Slurm's second part of it. How its other nodes find them: in_attempt.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import json, structs, to_builtins

from kit.errors import UnsupportedError, UsageError
from runner.sandboxes.in_attempt import OWN
from runner.sandboxes.wanted import DEFAULTS, ENGINES, Sandboxes, wrong
from slurm.script import Options, Servers

if TYPE_CHECKING:
    from runner.job import Job
    from slurm.clusters import Cluster

LEFT_OUT = ("output", "open-mode", "requeue", "signal", "comment")
"""Options that Slurm takes of a job's first part alone."""
EVERYWHERE = "0.0.0.0"


def wrong_of(job: Job) -> Iterator[tuple[str, str | None]]:
    """Place and complaint; None where nothing is wrong."""
    if job.sandboxes is None:
        return
    for key, complaint in wrong(job.sandboxes):
        yield f"sandboxes.{key}", complaint
    for name in OWN:
        if name in {*job.env, *job.env_files, *job.secrets}:
            yield "sandboxes", f"the job gives {name}, which its own sandboxes say"


def engine_of(asked: Sandboxes, cluster: Cluster) -> str:
    """UnsupportedError where the cluster has none that runs sandboxes."""
    for name in (asked.engine,) if asked.engine else cluster.engines:
        if name in ENGINES:
            return name
    raise UnsupportedError(
        f"the job's sandboxes need one of {', '.join(ENGINES)}, and the cluster has "
        f"{', '.join(cluster.engines)}",
        "sandboxes.engine=apptainer",
    )


def partition_of(asked: Sandboxes, cluster: Cluster, name: str) -> str:
    """UsageError where neither job nor profile says where nodes without GPUs are."""
    if found := asked.partition or cluster.cpu_partition:
        return found
    raise UsageError(
        f"sandboxes: the profile of {name} knows no partition of nodes without GPUs",
        f"sandboxes.partition=…, or cpu_partition in [clusters.{name}] of your config.toml",
    )


def options_of(job: Job, cluster: Cluster, name: str, run: Path) -> Options:
    """What sbatch is told of the second part. Pure; errors as of options.options and partition_of."""
    from slurm import options

    asked = job.sandboxes
    assert asked
    share: dict[str, str | bool] = {"cpus-per-task": str(asked.cpus)}
    if asked.memory:
        share["mem"] = asked.memory
    own = {key.lstrip("-"): value for key, value in asked.sbatch.items()}
    where = structs.replace(cluster, partition=partition_of(asked, cluster, name))
    limit = job.time or _limit(job)
    found = options.options(
        where, name=job.name, run=run, nodes=asked.nodes, time=limit, sbatch={**share, **own}
    )
    return {key: value for key, value in found.options.items() if key not in LEFT_OUT}


def _limit(job: Job) -> str | None:
    """Both parts end together, so they have one limit."""
    said = job.sbatch.get("time")
    return said if isinstance(said, str) else None


def servers(
    job: Job, cluster: Cluster, name: str, run: Path, layer: Path, agent: Path | None, cache: Path
) -> Servers:
    """The second part of a job that asks for sandboxes, as the batch script gets it. Pure; errors as of
    options_of and engine_of.

    layer: the folder of slipworks' own; agent: the layer that is mounted; cache: of images. All nodes see
    them.
    """
    asked = job.sandboxes
    assert asked
    engine = engine_of(asked, cluster)
    return Servers(
        options=options_of(job, cluster, name, run), nodes=asked.nodes, cpus=asked.cpus, engine=engine,
        layer=str(layer), words=serve_words(asked, engine, agent), cache=str(cache), root=asked.root or "",
    )  # fmt: skip


def serve_words(asked: Sandboxes, engine: str, agent: Path | None) -> tuple[str, ...]:
    """Of the runner: a server on a free port of its node, for the other nodes of the job."""
    told: dict[str, object] = {"engine": engine, "listen": EVERYWHERE}
    if agent:
        told["layer"] = str(agent)
    settings = structs.replace(asked.settings, **told)
    given = {key: value for key, value in to_builtins(settings).items() if value != getattr(DEFAULTS, key)}
    return ("sandbox", "serve", "--set", json.encode(given).decode())


def awaited(job: Job) -> float | None:
    """Seconds that the job's nodes wait for the server; None: there is none."""
    return job.sandboxes.ready_within if job.sandboxes else None
