"""Sandboxes as a part of a job: Slurm's second part of it, and how its nodes and its command find each other.

The batch script makes the key when an attempt begins, and starts a server on each of the nodes for sandboxes.
It leaves in the attempt's folder `sandboxes`, which its owner alone can enter:
    key     of all servers of the attempt; gone when it has ended
    url-N   of the server on node N; url: by which all of them are asked, once they answer
    end     they are to end
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from msgspec import json, structs, to_builtins

from kit.errors import UnsupportedError, UsageError
from runner.sandboxes.wanted import DEFAULTS, ENGINES, Sandboxes, wrong
from slurm.script import Options, Servers

if TYPE_CHECKING:
    from runner.job import Job
    from runner.launch import Launch
    from runner.runs import Attempt
    from slurm.clusters import Cluster

FOLDER = "sandboxes"
OWN = ("SLIPWORKS_SANDBOX_URL", "SLIPWORKS_SANDBOX_KEY")
PAIRS = (
    OWN,
    ("SANDBOX_REMOTE_RUNTIME_API_URL", "ALLHANDS_API_KEY"),
    ("RUNTIME_API_URL", "RUNTIME_API_KEY"),
)
"""Variables of address and key: ours; OpenHands' older client's; those of the examples of its SDK."""
NO_PROXY = ("no_proxy", "NO_PROXY")
LEFT_OUT = ("output", "open-mode", "requeue", "signal", "comment")
"""Options that Slurm takes of a job's first part alone."""
EVERYWHERE = "0.0.0.0"
ADDRESS = re.compile(r"url(-\d+)?")
"""Files in the attempt's folder; what is half-written has another name."""


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


def variables(
    attempt: Attempt, launch: Launch, env: Mapping[str, str], check: Callable[[], None]
) -> dict[str, str]:
    """Waits until the server of the job's sandboxes answers this node; what tells programs where it is.

    Nothing of a pair of which the job says one itself: our key is for no other server. Late where it does not
    answer in time; `check` raises what must end the node meanwhile.
    """
    if launch.sandboxes is None:
        return {}
    from runner.meeting import Limit, wait
    from runner.readiness import answers

    folder, limit = attempt.folder / FOLDER, Limit(launch.sandboxes)
    where = "the server of sandboxes on the job's other nodes"
    url, key = wait(partial(_told, folder), awaited=where, seconds=limit, check=check)
    reached = partial(_true, answers, f"{url}/health")
    wait(reached, awaited=f"an answer of {url}, {where}", seconds=limit, check=check)
    said = {*launch.env, *launch.env_files, *launch.secrets}
    pairs = [each for each in PAIRS if not said & set(each)]
    found = {name: value for each in pairs for name, value in zip(each, (url, key), strict=True)}
    return {**found, **_no_proxy(folder, env)}


def _told(folder: Path) -> tuple[str, str] | None:
    """Address and key. The folder is listed first, which makes NFS look anew."""
    try:
        if "url" not in os.listdir(folder):  # noqa: PTH208
            return None
        found = (folder / "url").read_text().strip(), (folder / "key").read_text().strip()
    except OSError:
        return None
    return found if all(found) else None


def _true(probe: Callable[[str], bool], word: str) -> bool | None:
    return probe(word) or None


def _no_proxy(folder: Path, env: Mapping[str, str]) -> dict[str, str]:
    """Servers and sandboxes are near: no proxy is asked for them."""
    more = sorted({*filter(None, map(_host, folder.iterdir()))})
    return {name: ",".join([*filter(None, [env.get(name)]), *more]) for name in NO_PROXY}


def _host(file: Path) -> str | None:
    """Of a server's address. A name that NFS remembers may be of no file any more."""
    if not ADDRESS.fullmatch(file.name):
        return None
    with contextlib.suppress(OSError, ValueError):
        return urlsplit(file.read_text().strip()).hostname
    return None
