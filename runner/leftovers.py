"""What killed processes leave in /dev/shm: files of NCCL and torch, which outlive a container."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

SHM = Path("/dev/shm")


class Leftovers:
    """Made before anything is started: what lies there already belongs to others and stays."""

    def __init__(self, folder: Path = SHM) -> None:
        self.folder = folder
        self._before = _names(folder)
        self._ours: set[Path] = set()

    def note(self, pids: Iterable[int]) -> None:
        """Marks what these processes, which are about to be killed, have open or mapped there."""
        for path in {path for pid in pids for path in _used(pid, f"{self.folder}/")}:
            if Path(path).relative_to(self.folder).parts[0] not in self._before:
                self._ours.add(Path(path))

    def remove(self) -> None:
        """Removes what was marked. Call when those processes have ended."""
        for path in self._ours:
            with contextlib.suppress(OSError):
                path.unlink()


def _names(folder: Path) -> frozenset[str]:
    with contextlib.suppress(OSError):
        return frozenset(entry.name for entry in os.scandir(folder))
    return frozenset()


def _used(pid: int, below: str) -> set[str]:
    """The files that a process has mapped or open and that still have their names."""
    found = set()
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/maps").read_text(errors="surrogateescape").splitlines():
            found.update(line.split(maxsplit=5)[5:])
    with contextlib.suppress(OSError):
        for descriptor in os.scandir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                found.add(str(Path(descriptor.path).readlink()))
    return {path for path in found if path.startswith(below) and not path.endswith(" (deleted)")}
