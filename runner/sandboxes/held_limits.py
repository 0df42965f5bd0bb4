"""Which limits of a process its control groups hold, by what the kernel says: engines may drop them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from runner.sandboxes.nouns import Limits

NAMES = frozenset({"cpus", "memory", "pids"})


def held(pid: int, limits: Limits, root: Path = Path("/")) -> frozenset[str]:
    """Of NAMES those that are held. The processors are, where a control group keeps the process on them: an
    affinity alone is one that a program may change for itself."""
    found = set()
    for name, kind, files, most in (
        ("memory", "memory", ("memory.max", "memory.limit_in_bytes"), limits.memory),
        ("pids", "pids", ("pids.max",), limits.pids),
    ):
        values = (_number(folder / file) for folder in _folders(pid, kind, root) for file in files)
        if any(value is not None and value <= most for value in values):
            found.add(name)
    if not limits.cpus or any(
        _cpus(folder) <= set(limits.cpus) for folder in _folders(pid, "cpuset", root) if _cpus(folder)
    ):
        found.add("cpus")
    return frozenset(found)


def _folders(pid: int, controller: str, root: Path) -> Iterator[Path]:
    """Its own control group, of version 2 and of version 1, as this host mounts them."""
    try:
        lines = (root / f"proc/{pid}/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            yield root / "sys/fs/cgroup" / path.lstrip("/")
        elif controller in controllers.split(","):
            yield root / "sys/fs/cgroup" / controller / path.lstrip("/")


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text.isdecimal() else None


def _cpus(folder: Path) -> set[int]:
    """Of `0-2,5`; empty where nothing is said."""
    text = _text(folder / "cpuset.cpus")
    spans = [each.partition("-") for each in text.split(",") if each]
    try:
        return {number for low, _, high in spans for number in range(int(low), int(high or low) + 1)}
    except ValueError:
        return set()


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
