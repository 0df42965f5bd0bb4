"""The job that comes after a run, made from what the run's own job says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from msgspec import json, to_builtins

from kit.errors import UsageError
from runner.after.asked import Upload
from runner.assignments import NAME

if TYPE_CHECKING:
    from runner.job import Job
    from runner.submission import Places
    from slurm.clusters import Cluster

TRAINED = "/slipworks-trained"
"""Where the run folder of the run that made the checkpoints is seen, read-only."""
REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
LITTLE: dict[str, str | bool] = {"cpus-per-task": "4", "mem": False, "exclusive": False}
"""In place of what the profile asks for on nodes with GPUs."""
KEPT_OPTIONS = ("account", "qos", "reservation")
"""Of the run's own options, what decides who pays and not what its nodes are."""


def wrong(job: Job) -> Iterator[tuple[str, str | None]]:
    """Place and complaint."""
    if job.after is None:
        return
    asked = job.after.upload
    if job.saved is None:
        yield "after.upload", "found an upload of checkpoints, and no `checkpoints: true`"
    if not REPO.fullmatch(asked.repo):
        yield (
            "after.upload.repo",
            f"found {asked.repo!r}, expected a repository as the hub calls it: org/name",
        )
    for key in ("folder", "target"):
        if (path := getattr(asked, key)) is not None and not _below(path):
            yield f"after.upload.{key}", f"found {path!r}, expected a path below"
    if not NAME.fullmatch(asked.token):
        yield "after.upload.token", f"found {asked.token!r}, expected the name of a secret"
    for key in ("partition", "time", "revision"):
        yield f"after.upload.{key}", f"found an empty {key}" if getattr(asked, key) == "" else None
    for key in ("dependency", "partition", "time"):
        if key in asked.sbatch:
            yield f"after.upload.sbatch.{key}", f"found {key}, which sbatch cannot be told of here"


def _below(path: str) -> bool:
    pure = PurePosixPath(path)
    return bool(path) and not pure.is_absolute() and ".." not in pure.parts


def upload(job: Job, cluster: Cluster, name: str, at: Places) -> Job:
    """The job of an upload: one node without GPUs, the run's image, its variables and mounts, and no code.

    name: the cluster's. at: the run's places; its folders need not be there yet.
    UsageError where neither job nor profile says where nodes without GPUs are.
    """
    from runner.job import Job, Mount

    assert job.after and job.saved and at.checkpoints
    asked = job.after.upload
    partition = asked.partition or cluster.cpu_partition
    if partition is None:
        raise UsageError(
            f"after.upload: the profile of {name} knows no partition of nodes without GPUs",
            f"after.upload.partition=…, or cpu_partition in [clusters.{name}] of your config.toml",
        )
    own = {key: value for key, value in job.sbatch.items() if key in KEPT_OPTIONS}
    return Job(
        name=f"{job.name[:56]}-upload", arch=job.arch, line=job.line, base=job.base, image=job.image,
        ray=False, time=asked.time, secrets=(asked.token,), egress=cluster.internet is False,
        # The hub's own words to those that train say that it is not asked.
        env={**job.env, "HF_HUB_OFFLINE": "0"},
        binds=(
            *(each for each in job.mounts if each.target not in (job.saved.target, TRAINED)),
            Mount(source=str(at.checkpoints), target=job.saved.target, read_only=True),
            Mount(source=str(at.run.root), target=TRAINED, read_only=True),
        ),
        sbatch={**LITTLE, **own, **asked.sbatch, "partition": partition},
        run=("python3", "-c", _program(), _argument(asked, job)),
    )  # fmt: skip


def _program() -> str:
    return Path(__file__).with_name("hub_upload.py").read_text()


def _argument(asked: Upload, job: Job) -> str:
    assert job.saved
    words = {
        key: value for key, value in to_builtins(asked).items() if key not in ("sbatch", "partition", "time")
    }
    words |= {"checkpoints": job.saved.target, "trained": TRAINED, "message": f"Upload of {job.name}"}
    return json.encode(words).decode()
