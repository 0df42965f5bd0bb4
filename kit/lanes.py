"""Work that goes on beside the main thread of this process, and never longer than the block it belongs to.

For work that mostly waits for other programs or hashes and packs, which needs no lock of the interpreter.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import TypeVar

from kit import process

T = TypeVar("T")

LOOK = 0.1  # seconds between two looks for programs that run


class Stopped(Exception):
    """Raised in a lane whose block has failed or was interrupted. Nobody sees it."""


class Lanes:
    """Some lanes, made by `opened`. What `begin` gives tells a result, or raises what the work raised."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool
        self._begun: list[Future[object]] = []
        self._stop = threading.Event()

    def begin(self, work: Callable[[], T]) -> Future[T]:
        """Begins some work when a lane is free, in the order of the calls."""
        begun = self._pool.submit(work)
        self._begun.append(begun)  # type: ignore[arg-type]
        return begun

    def look(self) -> None:
        """Raises what a lane has raised by now: for who has more to do before asking for results."""
        for each in self._begun:
            if each.done():
                each.result()

    def results(self, begun: Sequence[Future[T]]) -> list[T]:
        """What some works told, in their order; raises what any of them has raised as soon as it has."""
        wait(begun, return_when=FIRST_EXCEPTION)
        self.look()
        return [each.result() for each in begun]

    def pause(self, seconds: float) -> None:
        """time.sleep for a lane: Stopped, at once, when nobody waits for it any more."""
        if self._stop.wait(seconds):
            raise Stopped

    def wanted(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """The same pieces, until nobody waits for them any more: then Stopped."""
        for piece in pieces:
            self.pause(0)
            yield piece

    def end(self) -> None:
        """Ends all, and returns when they have ended, whatever signal would have it end sooner."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._stop.set()
        begun = [each for each in self._begun if not each.cancelled()]
        under_way = True
        while under_way:
            with contextlib.suppress(KeyboardInterrupt, SystemExit):
                # Again and again: who was about to start a program at our last look has done so now.
                under_way = bool(wait(begun, timeout=LOOK).not_done)
                if under_way:
                    process.end_streams()


@contextlib.contextmanager
def opened(at_once: int) -> Iterator[Lanes]:
    """Lanes for `at_once` works at a time; at the block's end they have come to theirs.

    Where it ends by an exception (which a lane's is, to who asks for its result) they are ended: programs of
    `process.stream`, pauses and pieces at once, what never looks when it is done.
    """
    with ThreadPoolExecutor(at_once, thread_name_prefix="lane") as pool:
        lanes = Lanes(pool)
        try:
            yield lanes
        except BaseException:
            lanes.end()
            raise
