"""A program that a node runs beside itself: the job's command, or a service."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

from kit import process
from kit.errors import LaunchError
from runner import family


class Program:
    """Started, in a session of its own; its output is appended to `log`.

    LaunchError or MissingToolError if it cannot be started.
    """

    def __init__(
        self, words: Sequence[str], *, what: str, log: Path, env: Mapping[str, str], cwd: str | None = None
    ) -> None:
        found = shutil.which(words[0], path=env.get("PATH"))
        if found is None and "/" not in words[0]:
            raise LaunchError(f"the image has no `{words[0]}` on its PATH")
        self.child = process.start([found or words[0], *words[1:]], what=what, log=log, env=env, cwd=cwd)
        self.wake = _watched(self.child.pid)
        """Becomes readable when the program ends; None where the kernel cannot (before 5.3)."""

    def code(self) -> int | None:
        """The exit code as a shell tells it (128 + the signal's number); None while it runs."""
        code = self.child.poll()
        return None if code is None else (128 - code if code < 0 else code)

    def pass_on(self, sign: signal.Signals) -> int:
        """Sends a signal to the program if it handles it, else to the nearest below it that do.

        Returns how many. A shell around the program, or any other that does not handle the signal, would be
        ended by it: it gets none. Nor do the children of one that does, which inherit its handler by a fork.
        """
        below = family.children()
        front, reached = [self.child.pid], 0
        while front:
            pid = front.pop()
            if _handles(pid, sign):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, sign)
                    reached += 1
            else:
                front += below.get(pid, [])
        return reached

    def end(self, grace: float) -> None:
        """TERM for its group, after `grace` seconds KILL."""
        process.end_group(self.child, grace)


def script(run: str | Sequence[str]) -> tuple[str, ...]:
    """The words of a command that is a list of them, or a script for sh."""
    return ("/bin/sh", "-euc", run) if isinstance(run, str) else tuple(run)


def _watched(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except (OSError, AttributeError):
        return None


def _handles(pid: int, sign: signal.Signals) -> bool:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return False
    return any(line.startswith("SigCgt:") and int(line.split()[1], 16) >> (sign - 1) & 1 for line in lines)
