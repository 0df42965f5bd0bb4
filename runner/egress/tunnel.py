"""ssh with a SOCKS forward, kept open: started, looked at, opened again when it has dropped, ended."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from kit import process
from runner.runs import last_lines

LONGEST = 30.0  # seconds between two tries, of which the first comes at once


class Tunnel:
    """Never waits. Only `start` and `keep` start anything, and what they start `close` ends."""

    def __init__(
        self, words: Sequence[str], port: int, log: Path, env: Mapping[str, str], tell: Callable[[str], None]
    ) -> None:
        self.words, self.port, self.log, self.env, self.tell = words, port, log, env, tell
        self.is_open = False
        self.drops = 0
        self.failures = 0
        """Tries since it was last open that came to nothing."""
        self._child: process.Child[bytes] | None = None
        self._pause, self._next = 0.0, 0.0
        self._dropped = 0.0

    def start(self) -> None:
        self._child = process.start(self.words, what="open the way out", log=self.log, env=self.env)

    def keep(self) -> None:
        """To be called often."""
        if self._child is None:
            if time.monotonic() >= self._next:
                self.start()
        elif (code := self._child.poll()) is not None:
            self._child = None
            self._ended(code)
        elif not self.is_open and _listens(self.port):
            self._opened()

    def close(self) -> None:
        if self._child is not None:
            process.end_group(self._child, grace=1.0)
            self._child = None
        self.is_open = False

    def said(self) -> str:
        """The last lines of ssh's."""
        return last_lines(self.log)

    def _opened(self) -> None:
        if self._dropped:
            self.tell(f"the way out is open again, after {time.monotonic() - self._dropped:.1f} s")
        self.is_open, self.failures, self._pause, self._dropped = True, 0, 0.0, 0.0

    def _ended(self, code: int) -> None:
        now = time.monotonic()
        if self.is_open:
            self.is_open, self._dropped = False, now
            self.drops += 1
            self.tell(f"the way out dropped (ssh ended with exit code {code}); it is opened again")
        else:
            self.failures += 1
            self._pause = min(max(0.5, 2 * self._pause), LONGEST)
        self._next = now + self._pause


def _listens(port: int) -> bool:
    """ssh listens once it has been let in: until then it has no forwards."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
