"""What a job may not say of what it needs, and what it names although nodes could not get it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from kit.errors import InvalidFileError
from runner.staging import asked

if TYPE_CHECKING:
    from runner.job import Job
    from slurm.clusters import Cluster

ID = re.compile(r"(?=.{1,96}$)[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?", re.ASCII)
"""A name on the hub: at most one slash."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
REVISION = re.compile(r"[\w][\w./+-]{0,254}")
MENTION = re.compile(re.escape(asked.INSIDE) + r"/([A-Za-z0-9._-]+)")


def wrong(job: Job) -> Iterator[tuple[str, str]]:
    """Places and complaints of a job that was not resolved yet."""
    seen: set[str] = set()
    for each in asked.items(job.stage):
        if not ID.fullmatch(each.id):
            yield each.at, f"found {each.id!r}, expected a name on the hub: Qwen/Qwen3-8B"
        if not REVISION.fullmatch(each.revision) or ".." in each.revision:
            yield each.at, f"found revision {each.revision!r}, expected a branch, a tag or a commit"
        if not NAME.fullmatch(each.name):
            yield each.at, f"found name {each.name!r}, expected letters, digits and ._-"
        if each.name in seen:
            yield each.at, f"two entries are called {each.name}: give one of them another `name`"
        seen.add(each.name)
        if not all(each.patterns):
            yield each.at, "found an empty pattern"
    for at, text in _texts(job):
        for name in MENTION.findall(text):
            if name not in seen:
                yield at, f"{asked.INSIDE}/{name} is named, and `stage` has nothing called {name}"


def _texts(job: Job) -> Iterator[tuple[str, str]]:
    """Where a job may name what it has staged."""
    if job.skyrl:
        yield "skyrl.model", job.skyrl.model
        yield from (("skyrl.data", name) for name in (*job.skyrl.data.train, *job.skyrl.data.val))
    elif job.run is not None:
        yield from (("run", text) for text in ((job.run,) if isinstance(job.run, str) else job.run))
    yield from ((f"env.{name}", value) for name, value in job.env.items())


def demand(job: Job, cluster: Cluster, locate: Callable[[str], str] = str) -> None:
    """InvalidFileError for a model or data set that the job names by its name on the hub, where nodes have no
    internet and it is not staged: training would break off in its first minutes, after hours in the queue."""
    if cluster.internet is not False or job.skyrl is None or job.egress:
        return
    there = {each.id for each in asked.items(job.stage) if each.kind == "model"}
    model = job.skyrl.model
    if "/" in model and ID.fullmatch(model) and model not in there:
        raise InvalidFileError(
            f"{locate('skyrl.model')}: nodes have no internet, and the model {model} is not staged",
            f"stage: {{models: [{model}]}}",
        )
    for key, names in (("train", job.skyrl.data.train), ("val", job.skyrl.data.val)):
        for place, name in enumerate(names):
            if "/" in name and ID.fullmatch(name) and not name.endswith((".parquet", ".json", ".jsonl")):
                raise InvalidFileError(
                    f"{locate(f'skyrl.data.{key}[{place}]')}: nodes have no internet, and {name} is the name "
                    "of a data set on the hub, not of files inside",
                    f"stage: {{datasets: [{name}]}}; its files are in "
                    f"{asked.INSIDE}/{name.rpartition('/')[2]}",
                )
