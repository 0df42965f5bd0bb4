"""One at a time for each name, among the threads of this process."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator


class Turns:
    """Nothing is kept of names that nobody waits for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken: dict[tuple[str, ...], _Turn] = {}

    @contextlib.contextmanager
    def __call__(self, *name: str) -> Iterator[None]:
        with self._lock:
            turn = self._taken.setdefault(name, _Turn())
            turn.wanted += 1
        try:
            with turn.lock:
                yield
        finally:
            with self._lock:
                turn.wanted -= 1
                if not turn.wanted:
                    del self._taken[name]


class _Turn:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.wanted = 0
