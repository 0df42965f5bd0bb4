"""Folders outside pytest's own, for daemons and for other users: what a run that was killed left of them, the
next one removes.

    folder = made("storage")     /tmp/slipworks-test-storage-…, locked as long as this process lives
    removed(folder)              with all that is mounted below it
    jobs_folders()               removes what jobs left that were killed with their node
    processes("cmdline")         what lives, to look among it for what should not
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

PLACE = Path("/tmp")
NAME = "slipworks-test"
JOBS = re.compile(r"slipworks-(podman-|mounts-)?\d+-\d+\.\w{6}")
"""The folders of slurm/templates/node: a job locks its own while any of its processes lives."""
STORAGE = "storage.conf"
"""Of a podman, in a folder that holds all that it has."""
_locks: dict[Path, int] = {}


def made(what: str) -> Path:
    """A new folder. Of all runs of the tests at once, none takes another's for a leftover."""
    with (PLACE / f"{NAME}s-{os.geteuid()}.lock").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        for folder in PLACE.glob(f"{NAME}-{what}-*"):
            if _left(folder):
                _remove(folder)
        folder = Path(tempfile.mkdtemp(prefix=f"{NAME}-{what}-", dir=PLACE))
        _locks[folder] = os.open(folder, os.O_RDONLY)
        fcntl.flock(_locks[folder], fcntl.LOCK_EX)
    return folder


def removed(folder: Path) -> None:
    _remove(folder)
    os.close(_locks.pop(folder))
    assert not folder.exists(), f"{folder} is left"


@contextlib.contextmanager
def apart(what: str) -> Iterator[Path]:
    """The folder while the block lasts."""
    folder = made(what)
    try:
        yield folder
    finally:
        removed(folder)


def processes(what: str) -> Iterator[bytes]:
    """A file of /proc ("cmdline", "environ") of each process of this machine whose can be read."""
    for each in Path("/proc").glob(f"[0-9]*/{what}"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            yield each.read_bytes()


def jobs_folders() -> None:
    """On a node that no job visits any more, nobody else would."""
    for folder in PLACE.glob("slipworks-*.??????"):
        if JOBS.fullmatch(folder.name) and _left(folder):
            _remove(folder)


def _left(folder: Path) -> bool:
    """Whether it is this user's, and nobody's any more."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return os.geteuid() in (0, os.fstat(descriptor).st_uid)
        finally:
            os.close(descriptor)
    return False


def _remove(folder: Path) -> None:
    # Containers go on without those who began them.
    if (folder / STORAGE).exists() and shutil.which("podman"):
        env = {**os.environ, "CONTAINERS_STORAGE_CONF": str(folder / STORAGE)}
        end = ["podman", "rm", "--all", "--force", "--time=0"]
        subprocess.run(end, env=env, capture_output=True, check=False)
    for point in mounted(folder):
        subprocess.run(["umount", "--lazy", point], capture_output=True, check=False)
    subprocess.run(["rm", "-rf", "--one-file-system", folder], check=False)


def mounted(folder: Path) -> list[str]:
    """What is mounted below a folder, the last first."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    plain = [re.sub(r"\\(\d{3})", lambda found: chr(int(found[1], 8)), each) for each in points]
    return [each for each in reversed(plain) if each.startswith(f"{folder}/")]
