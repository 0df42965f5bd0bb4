"""One node as the front sees it: whether it answers, and how much room it has."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from runner.sandboxes.client import Client

GLANCE = 5.0  # seconds for an answer from memory


class Node:
    """The server of one node. Any thread may ask.

    answers   whether it did within the last `silence` seconds.
    why       it gave no answer, the last time.
    unwanted  ids of sandboxes that are to be ended as soon as it is seen that they live.
    """

    def __init__(self, url: str, made: Callable[..., Client], silence: float) -> None:
        self.url, self.silence = url, silence
        self.slots = self.free = self.waiting = 0
        self.answers, self.why = False, ""
        self.unwanted: set[str] = set()
        self._client, self._glance = made(url), made(url, timeout=GLANCE)
        self._last = time.monotonic()
        self._sent: list[list[float]] = []
        self._lock = threading.Lock()

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None, **query: str) -> dict[str, Any]:
        """As Client.ask. A question that is answered from memory has little time."""
        quick = path.startswith("/runtime/")
        return (self._glance if quick else self._client).ask(method, path, body, **query)

    def look(self) -> list[dict[str, Any]]:
        """The records of what lives on it; its room is known anew."""
        began = time.monotonic()
        try:
            found = self._glance.ask("GET", "/list")
        except Exception:
            self.answers = self.answers and time.monotonic() - self._last < self.silence
            raise
        with self._lock:
            self.slots, self.free, self.waiting = found["slots"], found["free"], found["waiting"]
            self._sent = [each for each in self._sent if each[0] >= began]
        self._last, self.answers = time.monotonic(), True
        records: list[dict[str, Any]] = found["runtimes"]
        return records

    def room(self) -> float:
        """Slots that are free, less those for whom requests wait, or were sent since the last look; less than
        none where a line has formed."""
        with self._lock:
            return self.free - self.waiting - sum(factor for _, factor in self._sent)

    @contextlib.contextmanager
    def sending(self, factor: int) -> Iterator[None]:
        """A request for so many slots is on its way: they are counted as taken from now until a look that
        begins after its answer; at once no more if it fails."""
        mine = [math.inf, factor]
        with self._lock:
            self._sent.append(mine)
        try:
            yield
        except BaseException:
            with self._lock:
                self._sent = [each for each in self._sent if each is not mine]
            raise
        mine[0] = time.monotonic()

    def close(self) -> None:
        self._client.close()
        self._glance.close()
