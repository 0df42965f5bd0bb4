"""Variables whose values are in files: an address or a key that another job writes while this one waits.

A file is mounted into each node's container and read there when an attempt begins, so that the next attempt
gets what it holds then. Its value is in the environment of Ray, its workers, the services and the command,
and nowhere else: in no script, argv, plan or log.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from kit.errors import LaunchError

if TYPE_CHECKING:
    from containers.engine import Bind
    from runner.job import Job
    from runner.launch import Launch

FOLDER = "/slipworks-env"
LONGEST = (128 << 10) - 1  # bytes of NAME=value that exec takes, less the closing NUL


def inside(job: Job) -> dict[str, str]:
    """Name -> where a node finds the value."""
    return {name: f"{FOLDER}/{name}" for name in job.env_files}


def binds(job: Job) -> tuple[Bind, ...]:
    """The mounts of a loaded job, whose paths are absolute."""
    from containers.engine import Bind  # late: nodes need none of it

    found = inside(job)
    return tuple(Bind(Path(path), found[name], read_only=True) for name, path in job.env_files.items())


def read(launch: Launch) -> dict[str, str]:
    """The values, without white space around them. LaunchError for one that no program can be given; it
    quotes none."""
    return {name: _value(name, Path(path)) for name, path in launch.env_files.items()}


def wrong(job: Job) -> Iterator[tuple[str, str]]:
    """Places and complaints of a job that was not loaded yet."""
    from runner.assignments import NAME

    for name, path in job.env_files.items():
        at = f"env_files.{name}"
        if not NAME.fullmatch(name):
            yield at, f"found {name!r}, expected a variable's name"
        if name in job.env or name in job.secrets:
            yield at, f"{name} is given twice: in env_files, and in {'env' if name in job.env else 'secrets'}"
        if not path:
            yield at, "found an empty path"


def _value(name: str, path: Path) -> str:
    try:
        text = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as bad:
        why = bad.strerror if isinstance(bad, OSError) else "it is no text"
        raise LaunchError(f"cannot read the value of {name} from {path}: {why}") from None
    if not text or "\0" in text:
        what = "is empty" if not text else "has a NUL byte, which no program can be given"
        raise LaunchError(f"the file with the value of {name} {what}", "runner submit … once it is written")
    if len(f"{name}={text}".encode()) > LONGEST:
        raise LaunchError(f"the file with the value of {name} has more than 128 KiB, which exec refuses")
    return text
