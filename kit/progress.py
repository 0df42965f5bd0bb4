"""How far a long piece of work is, on stderr: a bar on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator

from kit.say import say

Told = Callable[[int, str], None]
RECENT = 60.0  # seconds whose rate the forecast stands on


@contextlib.contextmanager
def bar(title: str, total: int, every: float = 10.0) -> Iterator[Told]:
    """Yields a function that takes how many of `total` are done and a few words, as often as one likes.

    On a terminal: one live line with a bar, the rate and the time to go. Without one: a line every `every`
    seconds, when something was told since; 0: none. The last state is always told, also when it breaks off.
    """
    pace = Pace(total)
    if sys.stderr.isatty():
        with _drawn(title, total, pace) as told:
            yield told
        return
    with _lines(title, pace, every) as told:
        yield told


class Pace:
    """The rate of the last minute, and what it says of the rest. clock: seconds, ever growing."""

    def __init__(self, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.total, self.clock, self.done = total, clock, 0
        self.began = clock()
        self._marks: deque[tuple[float, int]] = deque([(self.began, 0)])

    def mark(self, done: int) -> None:
        now, self.done = self.clock(), done
        if now - self._marks[-1][0] >= 1.0 or len(self._marks) == 1:
            self._marks.append((now, done))
        while len(self._marks) > 2 and now - self._marks[1][0] > RECENT:
            self._marks.popleft()

    @property
    def rate(self) -> float:
        """A second."""
        at, done = self._marks[0]
        return (self.done - done) / max(1e-6, self.clock() - at)

    @property
    def whole_rate(self) -> float:
        """A second, since the beginning."""
        return self.done / max(1e-6, self.clock() - self.began)

    @property
    def left(self) -> str:
        """Time to go, in words; empty while nothing can be said."""
        if self.done >= self.total or self.rate <= 0:
            return ""
        return f"{clock((self.total - self.done) / self.rate)} to go"

    def line(self) -> str:
        share = f" ({100 * self.done / self.total:.1f} %)" if self.total else ""
        rate = f"{self.rate:.1f} a second" if self.rate >= 0.1 else f"{self.rate * 3600:.0f} an hour"
        return ", ".join(filter(None, (f"{self.done} of {self.total}{share}", rate, self.left)))


def clock(seconds: float) -> str:
    """`0:42`, `12:03`, `26:10:00`."""
    whole = math.ceil(seconds)
    minutes = f"{whole // 60 % 60:02d}" if whole >= 3600 else f"{whole // 60}"
    hours = f"{whole // 3600}:" if whole >= 3600 else ""
    return f"{hours}{minutes}:{whole % 60:02d}"


@contextlib.contextmanager
def _lines(title: str, pace: Pace, every: float) -> Iterator[Told]:
    last, words, fresh = time.monotonic(), "", False

    def told(done: int, note: str) -> None:
        nonlocal last, words, fresh
        pace.mark(done)
        words, fresh = note, True
        if every and time.monotonic() - last >= every:
            last, fresh = time.monotonic(), False
            say(_line(title, pace, words))

    try:
        yield told
    finally:
        if fresh and every:
            seconds = pace.clock() - pace.began
            rate = f"{pace.whole_rate:.1f} a second"
            ended = f"{title}: {pace.done} of {pace.total} in {clock(seconds)}, {rate}"
            say("; ".join(filter(None, (ended, words))))


def _line(title: str, pace: Pace, words: str) -> str:
    return "; ".join(filter(None, (f"{title}: {pace.line()}", words)))


@contextlib.contextmanager
def _drawn(title: str, total: int, pace: Pace) -> Iterator[Told]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
        TextColumn("{task.fields[pace]}", markup=False),
        TextColumn("{task.fields[note]}", style="dim", markup=False),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(title, total=total, pace="", note="")

        def told(done: int, note: str) -> None:
            pace.mark(done)
            said = ", ".join(filter(None, (f"{pace.rate:.1f}/s", pace.left)))
            progress.update(task, completed=done, pace=said, note=note)

        yield told
