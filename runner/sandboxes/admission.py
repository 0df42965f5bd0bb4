"""Who gets slots now, who waits for them, and who is told to come again. Pure; the desk locks."""

from __future__ import annotations

from collections.abc import Sequence

from kit.errors import BusyError, UnsupportedError
from runner.sandboxes.host import Counts
from runner.sandboxes.slots import Line, Pace, Place, Share, Slots

FACTORS = (1, 2, 4, 8)
WAITING = 1000  # requests that may wait: each holds a port


class Admission:
    """queue: seconds that one may wait; 0: nobody waits. closed: nobody is let in any more."""

    def __init__(self, shares: Sequence[Share], queue: float) -> None:
        self._slots, self._line, self._pace = Slots(shares), Line(), Pace()
        self.queue, self.closed = queue, False

    def counts(self) -> Counts:
        return Counts(slots=self._slots.total, free=self._slots.free, waiting=len(self._line))

    def possible(self, factor: int) -> None:
        """UnsupportedError for a factor that can never be had here."""
        possible = [each for each in FACTORS if each <= self._slots.total]
        if factor not in possible:
            raise UnsupportedError(
                f"resource_factor {factor} cannot be had: this server has {self._slots.total} slots, "
                f"expected {', '.join(str(each) for each in possible)}"
            )

    def asked(self, id: str, count: int, now: float) -> Share | None:
        """The processors of slots that are its own from now on; None: it may `wait`. BusyError where it may
        not. Nobody is passed: while one waits, those who come wait behind."""
        if not self.closed and not len(self._line) and (share := self._slots.take(id, count)):
            return share
        told = f"{count} of {self._slots.total} slots wanted, {self._slots.free} free"
        if self.closed:
            told = "the server is ending"
        elif self.queue > 0 and len(self._line) < WAITING:
            return None
        elif self.queue > 0:
            told = f"{len(self._line)} requests wait"
        raise BusyError(f"no slot is free: {told}", self._pace.seconds(now, count, self._slots.total))

    def wait(self, id: str, count: int, now: float) -> None:
        """Puts it at the end of the line."""
        self._line.add(id, Place(count, now + self.queue))

    def adopt(self, id: str, count: int, cpus: Share) -> None:
        """Slots for one that runs already."""
        self._slots.adopt(id, count, cpus)

    def next(self) -> tuple[str, Share] | None:
        """The first of the line, with slots that are its own from now on; None where there are too few."""
        first = None if self.closed else self._line.first()
        share = self._slots.take(first[0], first[1].count) if first else None
        if first is None or share is None:
            return None
        self._line.leave(first[0])
        return first[0], share

    def late(self, now: float) -> list[str]:
        """Those who waited for too long."""
        return self._line.late(now)

    def leave(self, id: str) -> None:
        """It does not wait any more. Idempotent."""
        self._line.leave(id)

    def give(self, id: str, lasted: float | None) -> None:
        """Its slots are free, which it had for `lasted` seconds; None: it had none for long."""
        self._slots.give(id)
        if lasted is not None:
            self._pace.ended(lasted)
