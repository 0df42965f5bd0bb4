"""All that a process started, down to orphans: so that it can be ended, and nothing else with it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """Makes this process the parent of every descendant whose own parent ends, so that none is lost."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def children() -> dict[int, list[int]]:
    """Living processes by their parent, zombies left out."""
    found: dict[int, list[int]] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                state, parent = Path(entry.path, "stat").read_bytes().rpartition(b")")[2].split()[:2]
                if state != b"Z":
                    found.setdefault(int(parent), []).append(int(entry.name))
    return found


def descendants(of: int) -> list[int]:
    """Living processes below `of`, zombies left out."""
    if of == os.getpid() and _childless():
        return []
    below = children()
    found: list[int] = []
    front = [of]
    while front:
        front = [child for pid in front for child in below.get(pid, [])]
        found += front
    return found


def end(grace: float) -> int:
    """Ends all descendants of this process: TERM, after `grace` seconds KILL. Returns how many were killed.

    Only for the very end: it collects every child's exit status.
    """
    found = descendants(os.getpid())
    if not found:
        return 0
    _signal(found, signal.SIGTERM)
    if _gone(grace):
        return 0
    killed = 0
    for _ in range(5):  # what forks while it is being killed needs another round
        left = descendants(os.getpid())
        killed += len(left)
        _signal(left, signal.SIGKILL)
        if _gone(2.0):
            break
    return killed


def _childless() -> bool:
    """Whether this process has no child; one that adopts orphans then has no descendant either.

    Asked first, for the list of all processes of a big machine takes its time.
    """
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return True
    return False


def _signal(pids: list[int], sign: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, sign)


def _gone(seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if not descendants(os.getpid()):
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
