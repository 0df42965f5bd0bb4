"""How much of this machine this process may use, by affinity mask and control groups: not the whole node."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def cpus(root: Path = Path("/")) -> int:
    """CPUs of the affinity mask, cut to the smallest quota of the control groups above; at least 1."""
    mask = len(os.sched_getaffinity(0))
    quotas = [quota for folder in _folders(root, "cpu") if (quota := _quota(folder))]
    return max(1, min([mask, *map(int, quotas)]))


def memory(root: Path = Path("/")) -> int:
    """Bytes of memory: the machine's, cut to the smallest limit of the control groups above."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = (
        limit
        for folder in _folders(root, "memory")
        for name in ("memory.max", "memory.limit_in_bytes")
        if (limit := _number(folder / name))
    )
    return min([total, *limits])


def _folders(root: Path, controller: str) -> Iterator[Path]:
    """This process's control group and those above it, of version 2 and of version 1.

    In a container the path may be the host's, of which only the top is mounted: that one always counts.
    """
    mounted = root / "sys/fs/cgroup"
    paths = {"": "/", controller: "/"}
    try:
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            paths |= dict.fromkeys(controllers.split(","), path)
    except (OSError, ValueError):
        pass
    for top, path in ((mounted, paths[""]), (mounted / controller, paths[controller])):
        inner = Path(path.lstrip("/"))
        yield from (top / each for each in (inner, *inner.parents))


def _quota(folder: Path) -> float | None:
    try:
        amount, _, period = (folder / "cpu.max").read_text().partition(" ")
    except OSError:
        amount, period = (_text(folder / f"cpu.cfs_{word}_us") for word in ("quota", "period"))
    if not (amount.isdecimal() and period.strip().isdecimal()):  # "max", -1, or no such file
        return None
    return int(amount) / int(period) or None


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdecimal() else None


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
