"""Whether the process that submits is still there: told for sure only on its machine, among its own pids."""

from __future__ import annotations

import contextlib
import os
import platform
from pathlib import Path

from msgspec import Struct


class Submitter(Struct, frozen=True, kw_only=True):
    """A process. A pid alone means another one in another container, and later on.

    namespace  of its pid, as the kernel calls it; "": not known.
    started    when it began, in ticks since the machine did; None: not known.
    """

    host: str
    pid: int
    namespace: str = ""
    started: int | None = None

    @property
    def alive(self) -> bool | None:
        """None: it cannot be told from here."""
        if self.host != platform.node() or not self.namespace or self.namespace != _namespace():
            return None
        return self.started is not None and _started(self.pid) == self.started


def own() -> Submitter:
    """This process."""
    pid = os.getpid()
    return Submitter(host=platform.node(), pid=pid, namespace=_namespace(), started=_started(pid))


def _namespace() -> str:
    with contextlib.suppress(OSError):
        return str(Path("/proc/self/ns/pid").readlink())
    return ""


def _started(pid: int) -> int | None:
    """Field 22 of its stat; its name, field 2, may hold blanks and parentheses."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        after = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return int(after[22 - 3])
    return None
