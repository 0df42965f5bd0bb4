"""What a job may not say, beyond what its types tell: every complaint with its line."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from kit.errors import InvalidFileError, UnsupportedError
from kit.suggest import unknown
from runner import env_files, sbatch_option
from runner.after import making as after
from runner.assignments import NAME as VARIABLE
from runner.beside import checks as beside
from runner.bounds import Least, too_small
from runner.code_server import in_job as code_server
from runner.egress import checks as egress
from runner.sandboxes import in_job as sandboxes
from runner.staging import checks as staging
from slurm import times
from slurm.options import OTHERS_KEY

if TYPE_CHECKING:
    from runner.job import Job

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
KEPT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\*?")
READY = re.compile(r"port:\d{1,5}|https?://.+|file:/.+|run:.*\S.*", re.DOTALL)
LONGEST_ALL = 1 << 20
"""Bytes of all words and variables of a program: as a rule the kernel takes 2 MiB, and the image has some."""
LONGEST_WARNING = 65535  # seconds that sbatch --signal takes

Locate = Callable[[str], str]
Wrong = Iterator[tuple[str, str | None]]


def check(job: Job, locate: Locate) -> None:
    """InvalidFileError, UnsupportedError or UnknownNameError for the first thing that is wrong."""
    for at, wrong in _wrong(job):
        if wrong:
            raise InvalidFileError(f"{locate(at)}: {wrong}")
    _check_options(job, locate)
    _check_names(job, locate)


def _wrong(job: Job) -> Wrong:
    """Place and complaint; None where nothing is wrong."""
    if not NAME.fullmatch(job.name):
        yield "name", f"found name {job.name!r}, expected at most 63 letters, digits and ._-"
    for key in ("arch", "image", "line", "base", "workdir", "time", "training"):
        yield key, f"found an empty {key}" if getattr(job, key) == "" else None
    if job.arch is not None and job.image is not None:
        yield "image", "found both of arch and image, expected one of them"
    if job.image is not None and (job.line is not None or job.base is not None):
        yield "image", "found an image with a line or a base, which only an arch has"
    if job.run is None and job.skyrl is None:
        yield "", "found no run, which must be given where no section makes the command"
    yield "run", None if job.run is None or (job.run and all(job.command[:1])) else "found an empty command"
    yield from _wrong_numbers(job)
    yield from _wrong_words(job)
    yield from _wrong_time(job)
    yield from _wrong_code(job)
    yield from env_files.wrong(job)
    yield from _wrong_services(job)
    yield from code_server.checked(job)
    yield from egress.wrong(job.egress)
    yield from staging.wrong(job)
    yield from _wrong_places(job)
    yield from after.wrong(job)
    yield from beside.wrong(job)
    yield from sandboxes.wrong_of(job)


def _wrong_words(job: Job) -> Wrong:
    for place, name in enumerate(job.secrets):
        if not VARIABLE.fullmatch(name):
            yield f"secrets[{place}]", f"found {name!r}, expected a variable's name"
    for place, name in enumerate(job.keep_env):
        if not KEPT.fullmatch(name):
            yield f"keep_env[{place}]", f"found {name!r}, expected a variable's name or the beginning of one*"
    for name, value in job.env.items():
        if not VARIABLE.fullmatch(name):
            yield f"env.{name}", f"found {name!r}, expected a variable's name"
        if len(os.fsencode(f"{name}={value}")) > env_files.LONGEST:
            yield f"env.{name}", f"{name} holds more than 128 KiB, which exec refuses"
    if any(len(os.fsencode(word)) > env_files.LONGEST for word in job.command):
        yield "run", "a word of the command has more than 128 KiB, which exec refuses"
    whole = sum(len(os.fsencode(f"{name}={value}")) + 1 for name, value in job.env.items())
    if whole + sum(len(os.fsencode(word)) + 1 for word in job.command) > LONGEST_ALL:
        yield "env", "command and variables have more than 1 MiB, which exec may refuse"


def _wrong_numbers(job: Job) -> Wrong:
    from runner.job import Ray

    ray = job.asked_of_ray or Ray()
    steps = job.throughput.trajectories if job.throughput else None
    least: list[Least] = [
        ("nodes", job.nodes, 1, "nodes"),
        ("gpus", job.gpus, 0, "GPUs"),
        ("restarts", job.restarts, 0, "restarts"),
        ("ray.num_cpus", ray.num_cpus, 0, "CPUs"),
        ("ray.num_gpus", ray.num_gpus, 0, "GPUs"),
        ("ray.object_store_memory", ray.object_store_memory, 1, "bytes of object store"),
        ("throughput.trajectories", steps, 1, "trajectories"),
    ]
    yield from too_small(least)
    if job.restarts > 99:
        yield "restarts", f"found {job.restarts} restarts, expected 99 or fewer: each is a job in the queue"
    if not ray.ready_within > 0:
        yield "ray.ready_within", f"found {ray.ready_within:g} seconds, expected more than 0"


def _wrong_time(job: Job) -> Wrong:
    limit = float("inf")
    if job.time:
        try:
            limit = times.seconds(job.time)
        except InvalidFileError as bad:
            yield "time", bad.message
    if job.warn is not None:
        if not 0 < job.warn <= LONGEST_WARNING:
            yield "warn", f"found {job.warn} seconds, expected 1 to {LONGEST_WARNING}"
        if job.warn >= limit:
            yield "warn", f"found a warning {job.warn} s before the end of a job of {limit:g} s"


def _wrong_code(job: Job) -> Wrong:
    for place, each in enumerate(job.code):
        at = f"code[{place}]"
        if isinstance(each, str):
            yield at, None if each else "found an empty source"
            continue
        yield at, "found an empty source" if not each.source else None
        if each.limit < 1:
            yield f"{at}.limit", f"found a limit of {each.limit} MB, expected 1 or more"
        for number, folder in enumerate(each.imports):
            if not folder or not _below(folder):
                yield f"{at}.imports[{number}]", f"found {folder!r}, expected a folder below the source"


def _wrong_services(job: Job) -> Wrong:
    seen: set[str] = set()
    for place, each in enumerate(job.services):
        at = f"services[{place}]"
        if not NAME.fullmatch(each.name):
            yield f"{at}.name", f"found name {each.name!r}, expected letters, digits and ._-"
        yield f"{at}.name", f"two services are called {each.name}" if each.name in seen else None
        seen.add(each.name)
        yield f"{at}.run", None if each.run and each.run[0] else "found an empty command"
        if each.ready is not None and not READY.fullmatch(each.ready):
            yield f"{at}.ready", f"found {each.ready!r}, expected port:N, http://…, file:/… or run:COMMAND"
        if not each.ready_within > 0:
            yield f"{at}.ready_within", f"found {each.ready_within:g} seconds, expected more than 0"
        if not 0 <= each.restart <= 99:
            yield f"{at}.restart", f"found {each.restart} restarts, expected 0 to 99"
        for name in each.env:
            if not VARIABLE.fullmatch(name):
                yield f"{at}.env.{name}", f"found {name!r}, expected a variable's name"


def _wrong_places(job: Job) -> Wrong:
    for place, each in enumerate(job.kept):
        at = f"artifacts[{place}]"
        if not each.source.startswith("/"):
            yield at, f"found {each.source!r}, expected an absolute path inside"
        if each.every is not None and not each.every >= 1:
            yield f"{at}.every", f"found {each.every:g} seconds, expected 1 or more"
    if saved := job.saved:
        if not saved.target.startswith("/"):
            yield "checkpoints.target", f"found {saved.target!r}, expected an absolute path inside"
        if saved.shared is not None and not NAME.fullmatch(saved.shared):
            yield "checkpoints.shared", f"found {saved.shared!r}, expected letters, digits and ._-"


def _below(folder: str) -> bool:
    path = PurePosixPath(folder)
    return not path.is_absolute() and ".." not in path.parts


def _check_options(job: Job, locate: Locate) -> None:
    seen: set[str] = set()
    for key, value in job.sbatch.items():
        at, name = locate(f"sbatch.{key}"), key.lstrip("-")
        if name in seen:
            raise InvalidFileError(f"{at}: {name} is given twice")
        seen.add(name)
        for kind, complaint in sbatch_option.wrong(key, value):
            raise kind(f"{at}: {complaint}")
        if instead := OTHERS_KEY.get(name):
            raise UnsupportedError(f"{at}: sbatch's {name} is said by the job's own key {instead}", instead)


def _check_names(job: Job, locate: Locate) -> None:
    """UnknownNameError, with the line of the job, for an arch, line or base that there is not."""
    from definitions import archs, lines

    if job.arch is not None and job.arch not in archs.names():
        raise unknown("arch", job.arch, archs.names(), locate("arch"))
    if job.line is not None and job.line not in lines.names():
        raise unknown("line", job.line, lines.names(), locate("line"))
    if job.base is not None:
        from runner import planning  # late: it knows how everything is built

        if job.base not in planning.base_names():
            raise unknown("base", job.base, planning.base_names(), locate("base"))
