"""The processes of a sandbox as this host sees them: all of its PID namespace, and all that those began.

A container's own view is not asked, for what runs there may lie. By /proc alone, so for any engine; without
root, too: who made a user namespace may look into it, and signal what is in it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from msgspec import Struct

PAGE = os.sysconf("SC_PAGE_SIZE")


class Process(Struct, frozen=True):
    """One process. state: as /proc/PID/stat has it ("T": stopped). memory: its resident bytes, of which some
    may be others' as well."""

    pid: int
    parent: int
    state: str
    threads: int
    memory: int


def namespace(pid: int | str) -> str:
    """The PID namespace of a process; empty where it has ended, or may not be looked at."""
    try:
        return str(Path(f"/proc/{pid}/ns/pid").readlink())
    except OSError:
        return ""


def stat(pid: int) -> Process | None:
    """What /proc/PID/stat has of a process; None: it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return Process(pid, int(fields[1]), fields[0], int(fields[17]), int(fields[21]) * PAGE)


def belonging(namespaces: Collection[str]) -> dict[str, list[Process]]:
    """namespace -> what runs there now, also in namespaces below it. One pass over /proc for any number."""
    found: dict[str, list[Process]] = {each: [] for each in namespaces}
    parents: dict[int, int] = {}
    direct: dict[int, str] = {}
    alive = {each.pid: each for each in _all()}
    for pid, each in alive.items():
        parents[pid] = each.parent
        if (inside := namespace(pid)) in found:
            direct[pid] = inside
    for pid, each in alive.items():
        seen, at = set(), pid
        while at not in direct and at in parents and at not in seen:
            seen.add(at)
            at = parents[at]
        if at in direct:
            found[direct[at]].append(each)
    return found


def shared_memory_once(processes: Iterable[Process]) -> int:
    """Bytes, where what several share counts once in all (Pss); milliseconds a process."""
    total = 0
    for each in processes:
        try:
            text = Path(f"/proc/{each.pid}/smaps_rollup").read_text()
        except OSError:  # gone, or not ours to look at
            continue
        total += sum(int(line.split()[1]) << 10 for line in text.splitlines() if line.startswith("Pss:"))
    return total


def kill(pid: int, inside: str) -> bool:
    """Ends the first process of a namespace, by which the kernel ends all of it. False: it may not be."""
    if not inside or inside == namespace("self") or namespace(pid) != inside:  # gone, and its number reused
        return True
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return True


def freeze(inside: str, within: float = 5.0) -> None:
    """Stops all of a namespace, until a look finds nothing that goes on, or what does is stuck in the kernel.
    PermissionError where it may not."""
    end = time.monotonic() + within
    while going := [each for each in _in(inside) if each.state not in "TtZX"]:
        _send(going, signal.SIGSTOP)
        if time.monotonic() > end:
            break


def thaw(inside: str) -> None:
    _send([each for each in _in(inside) if each.state == "T"], signal.SIGCONT)


def frozen(pid: int) -> bool:
    """Whether a process is stopped."""
    one = stat(pid)
    return one is not None and one.state == "T"


def pin(processes: Iterable[Process], cpus: Collection[int]) -> None:
    """Keeps every thread on these processors; those that are so already are left alone."""
    allowed = set(cpus)
    for each in processes:
        with contextlib.suppress(OSError):
            for thread in (int(folder.name) for folder in Path(f"/proc/{each.pid}/task").iterdir()):
                with contextlib.suppress(OSError):
                    if not os.sched_getaffinity(thread) <= allowed:
                        os.sched_setaffinity(thread, allowed)


def _in(inside: str) -> list[Process]:
    if not inside or inside == namespace("self"):
        return []
    return belonging([inside])[inside]


def _send(processes: Iterable[Process], sign: signal.Signals) -> None:
    for each in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(each.pid, sign)


def _all() -> Iterator[Process]:
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal() and (one := stat(int(folder.name))):
            yield one
