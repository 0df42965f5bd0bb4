"""SIFs made by a job array: each task takes its part of the list, in the kit's own image.

What converts is the node's apptainer, in the node's own root (node_programs.py): an apptainer in the image
would be another one than the site's. All else is as with any job: each task is a run, with status and logs.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from kit import files
from kit.errors import UsageError
from runner import arrays, node_programs, prebuilding_sifs, queueing, runs, slurm_inside
from runner import job as jobs
from runner.job import Job
from runner.prebuilding_sifs import Wanted
from runner.queueing import Prepared
from runner.site import Site
from runner.submission import RUNNER

NAME = "prebuild-sif"
CPUS = 8  # of a task, unless the cluster or the user says otherwise: unpacking takes one, packing all
_PASSED = (
    "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY",
    "all_proxy",
)  # fmt: skip
_FILES = ("SSL_CERT_FILE", "REGISTRY_AUTH_FILE", "DOCKER_CONFIG")
"""Of the submitter's environment: the way to a registry, and files that say whom to trust and who we are."""


def tasks(
    wanted: Wanted, count: int, here: Site, arch: str, overrides: Sequence[str],
    environment: Mapping[str, str] = os.environ,
) -> list[Job]:  # fmt: skip
    """The jobs of the tasks, checked. overrides: key=value, over all of them as with `runner submit`."""
    return [_job(wanted, number, count, here, arch, overrides, environment) for number in range(1, count + 1)]


def listed(wanted: Wanted) -> Wanted:
    """The same of a copy of the list beside the reports: tasks read it as it was when they were submitted,
    whatever its format. Written now; equal lists are one file."""
    rows = [{"image": each.base, "name": name} for each in wanted.entries() for name in each.names or ("",)]
    raw = b"".join(msgspec.json.encode(row) + b"\n" for row in rows)
    folder = prebuilding_sifs.folder(wanted.platform) / "lists"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"list-{hashlib.sha256(raw).hexdigest()[:12]}.jsonl"
    files.write(path, raw)
    return replace(wanted, lists=((path, "list"),), baked=())


def words(wanted: Wanted) -> list[str]:
    """Of `runner prebuild sif` inside a task, but for its part. Pure. The disk was looked at for all."""
    listed = [str(path.absolute()) for path, _ in wanted.lists]
    flags = [f"--{name}" for name in ("fetch", "refresh", "pin") if getattr(wanted, name)]
    jobs = ["--jobs", str(wanted.jobs)] if wanted.jobs else []
    return [*listed, "--platform", str(wanted.platform), *flags, *jobs, "--force"]


def _job(
    wanted: Wanted, number: int, count: int, here: Site, arch: str, overrides: Sequence[str],
    environment: Mapping[str, str],
) -> Job:  # fmt: skip
    text: dict[str, Any] = {
        "name": f"{NAME}-{number}-of-{count}", "arch": arch, "ray": False, "nodes": 1,
        "run": [RUNNER, "prebuild", "sif", *words(wanted), "--shard", f"{number}/{count}"],
        "binds": [
            {"source": "/", "target": node_programs.ROOT},
            {"source": "/etc/hosts", "target": "/etc/hosts", "read_only": True},
            *({"source": each, "target": each} for each in _folders(wanted, here, environment)),
        ],
        "env": _variables(here, environment),
    }  # fmt: skip
    if not here.cluster.cpus_per_node:
        text["sbatch"] = {"cpus-per-task": str(CPUS)}
    with tempfile.TemporaryDirectory(prefix="slipworks-job-") as folder:
        file = Path(folder, f"{NAME}.yaml")
        file.write_bytes(msgspec.json.encode(text))  # which is YAML
        job = jobs.load(file, overrides)
    if job.nodes != 1 or job.restarts or job.ray:
        raise UsageError("a task of an array has one node, no restarts and no Ray", "--slurm N: more tasks")
    return job


def _folders(wanted: Wanted, here: Site, environment: Mapping[str, str]) -> list[str]:
    """Those of the user, and what the environment names, at their own paths. /tmp is the task's own."""
    there = slurm_inside.folders(here)
    if place := environment.get("APPTAINER_TMPDIR"):
        there.append(Path(place))
    found = [each.source for each in slurm_inside.outermost([each for each in there if each.is_dir()], ())]
    return [str(each) for each in found if each != Path("/tmp")]


def _variables(here: Site, environment: Mapping[str, str]) -> dict[str, str]:
    """Temporary files are on the node's own disk, in the folder that goes with the task."""
    told = {name: environment[name] for name in _PASSED if name in environment}
    told |= {
        name: f"{node_programs.ROOT}{Path(environment[name]).resolve()}"
        for name in _FILES if environment.get(name)
    }  # fmt: skip
    place = environment.get("APPTAINER_TMPDIR", "/tmp")
    return {**slurm_inside.variables(here, None, environment), **told, "APPTAINER_TMPDIR": place}


def prepared(all_: Sequence[Job], here: Site, *, dry: bool) -> list[Prepared]:
    """Each with a run folder of its own, of which nothing was written yet."""
    above = Path(here.settings.runs).expanduser().absolute()
    return [queueing.prepared(job, here, runs.named(above, job.name), dry=dry) for job in all_]


def script(ready: Sequence[Prepared], most: int | None) -> str:
    return arrays.script(NAME, ready, most)


def submitted(ready: Sequence[Prepared], here: Site, most: int | None) -> list[tuple[Path, str]]:
    """Run folder and job of each task."""
    records = arrays.submit(NAME, ready, queueing.queue(here), most)
    return [(each.at.run.root, record.ids[0]) for each, record in zip(ready, records, strict=True)]
