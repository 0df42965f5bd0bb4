"""What a registry says of how often it wants to be asked, and the one gate that all threads wait at."""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Callable, Mapping

from msgspec import Struct

from image_cache import answers
from kit.errors import QuotaError
from kit.say import say

_NUMBER = re.compile(r"\s*(\d{1,12})")
_WINDOW = re.compile(r"\bw=(\d{1,12})")
WORTH_TELLING = 2.0  # seconds of waiting


class Quota(Struct, frozen=True):
    """As announced with `RateLimit-Limit: 100;w=21600`: so many manifests in a window of so many seconds.

    remaining, at   how many were left, and when that was said (Unix time). None: it was not said.
    """

    limit: int
    window: int | None = None
    remaining: int | None = None
    at: float = 0.0

    @property
    def each(self) -> float:
        """Seconds until another one may be had, once none is left."""
        return self.window / max(1, self.limit) if self.window else 60.0


def announced(headers: Mapping[str, str]) -> Quota | None:
    """What an answer says of the quota, or None."""
    limit = headers.get("RateLimit-Limit")
    if limit is None or not (number := _NUMBER.match(limit)):
        return None
    window = _WINDOW.search(limit)
    left = _NUMBER.match(headers.get("RateLimit-Remaining", ""))
    return Quota(
        int(number[1]), int(window[1]) if window else None, int(left[1]) if left else None, time.time()
    )


class Gate:
    """Shut for all threads while a registry wants us to stay away.

    patience: seconds that are waited here; a longer wait is raised as a QuotaError that says how long.
    """

    def __init__(
        self, host: str, patience: float, clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:  # fmt: skip
        self.host, self.patience = host, patience
        self.quota: Quota | None = None
        self._clock, self._sleep = clock, sleep
        self._shut = 0.0  # until when, for every request
        self._spent = 0.0  # until when, for those that are counted
        self._told = 0.0
        self._lock = threading.Lock()

    def left(self, counted: bool = True) -> float:
        """Seconds until the next request, at the soonest."""
        until = max(self._shut, self._spent) if counted else self._shut
        return max(0.0, until - self._clock())

    def enter(self, what: str, counted: bool) -> None:
        """Waits until a request may go out. counted: it takes one of the quota."""
        if not (self._shut or self._spent):
            return
        while wait := self.left(counted):
            self.wait(wait, what)

    def wait(self, seconds: float, what: str) -> None:
        if seconds > self.patience:
            late = QuotaError(
                f"{self.host} wants no more requests from us for {seconds:.0f} s: could not ask for {what}",
                f"podman login {self.host}",
            )
            late.seconds = seconds
            raise late
        with self._lock:
            fresh = self._clock() >= self._told
            if fresh:
                self._told = self._clock() + seconds
        if fresh and seconds >= WORTH_TELLING:
            say(f"{self.host} wants us to wait {seconds:.0f} s: waiting")
        # Not all at the same moment when it opens again.
        self._sleep(seconds * random.uniform(1.0, 1.02) + 0.001)

    def heard(self, status: int, headers: Mapping[str, str]) -> float:
        """Notes what an answer says. Retry-After shuts the gate for all, for the seconds that are returned; a
        quota that is used up, for what is counted."""
        found = announced(headers)
        later = (answers.seconds(headers.get("Retry-After")) if status in (429, 503) else None) or 0.0
        if found is None and not later:
            return 0.0
        with self._lock:
            if later:
                self._shut = max(self._shut, self._clock() + later)
            if found:
                self.quota = found
                used_up = found.remaining == 0
                self._spent = self._clock() + found.each if used_up else 0.0
        return later
