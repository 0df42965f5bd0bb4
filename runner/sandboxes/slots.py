"""Slots: the share of a node that one sandbox gets, who has which, who is next and when.

Pure, but for `processors`, which asks the machine. Nothing here locks: the desk does.
"""

from __future__ import annotations

import os
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence

from msgspec import Struct

from kit import share
from kit.errors import HostError
from runner.sandboxes.settings import Settings

GIVEN = "SLURM_CPUS_ON_NODE"
Share = tuple[int, ...]
"""The numbers of the processors of one slot."""
FIRST = 3.0  # seconds that a sandbox is believed to hold its slots, before any has ended: too early is cheap
LEAST, LONGEST = 1.0, 60.0  # seconds after which one who was refused is asked to come again
LAST = 64  # sandboxes whose time is remembered


def processors(environment: Mapping[str, str] = os.environ) -> list[int]:
    """The numbers of those that this process may use: its affinity mask, cut to its control group's quota and
    to as many as Slurm gave the job here, which not every site has its kernel hold."""
    given = environment.get(GIVEN, "")
    most = int(given) if given.isdecimal() and int(given) else share.cpus()
    return sorted(os.sched_getaffinity(0))[: min(most, share.cpus())]


def planned(processors: Sequence[int], memory: int, settings: Settings) -> tuple[Share, ...]:
    """The slots of a node: what its processors and its memory (bytes) hold, without the reserve.

    Slots that were asked for in number share processors where those are too few. HostError where the reserve
    leaves none.
    """
    left = list(processors)[settings.reserve :]
    if not left:
        raise HostError(
            f"no processor is left for sandboxes: found {len(processors)}, of which {settings.reserve} "
            "are reserved",
            "runner sandbox serve --reserve 0",
        )
    each = min(settings.cpus, len(left))
    holds = min(len(left) // each, memory // (settings.memory << 20) if settings.memory else len(left))
    count = settings.slots or max(1, holds)
    return tuple(
        tuple(sorted(left[(number * each + at) % len(left)] for at in range(each))) for number in range(count)
    )


class Slots:
    """Who has which slots."""

    def __init__(self, shares: Sequence[Share]) -> None:
        self._shares = tuple(shares)
        self._free = list(range(len(self._shares)))
        self._held: dict[str, tuple[int, ...]] = {}

    @property
    def total(self) -> int:
        return len(self._shares)

    @property
    def free(self) -> int:
        return len(self._free)

    def take(self, id: str, count: int) -> Share | None:
        """The processors of so many slots, which are its own from now on; None where fewer are free."""
        if count > len(self._free):
            return None
        return self._take(id, self._free[:count])

    def adopt(self, id: str, count: int, cpus: Share) -> None:
        """Slots for one that runs already: those of its processors, or else any. It may be more than there
        are now: then others wait until it is gone."""
        own = [number for number in self._free if set(self._shares[number]) <= set(cpus)]
        others = [number for number in self._free if number not in own]
        self._take(id, (own + others)[:count])

    def give(self, id: str) -> None:
        """Idempotent."""
        self._free = sorted([*self._free, *self._held.pop(id, ())])

    def _take(self, id: str, numbers: Sequence[int]) -> Share:
        self._free = [number for number in self._free if number not in numbers]
        self._held[id] = tuple(numbers)
        return tuple(sorted({cpu for number in numbers for cpu in self._shares[number]}))


class Place(Struct, frozen=True):
    """One who waits for `count` slots, until then by the clock."""

    count: int
    until: float


class Line:
    """Those who wait, in the order in which they came: nobody is passed by one who needs less."""

    def __init__(self) -> None:
        self._places: OrderedDict[str, Place] = OrderedDict()

    def __len__(self) -> int:
        return len(self._places)

    def add(self, id: str, place: Place) -> None:
        self._places[id] = place

    def leave(self, id: str) -> None:
        """Idempotent."""
        self._places.pop(id, None)

    def first(self) -> tuple[str, Place] | None:
        return next(iter(self._places.items()), None)

    def late(self, now: float) -> list[str]:
        """Those whose time is over."""
        return [id for id, place in self._places.items() if place.until <= now]


class Pace:
    """How fast slots become free, by those that did: what one who is refused is told.

    Each that is told to come again is believed to come, so the next one is told a later time.
    """

    def __init__(self) -> None:
        self._lasted: deque[float] = deque(maxlen=LAST)
        self._coming: deque[float] = deque(maxlen=4096)

    def ended(self, seconds: float) -> None:
        """A sandbox held its slots for so long."""
        self._lasted.append(max(0.0, seconds))

    def seconds(self, now: float, count: int, slots: int) -> float:
        """After which it is worth to ask again for `count` of so many slots."""
        lasts = sum(self._lasted) / len(self._lasted) if self._lasted else FIRST
        while self._coming and self._coming[0] <= now:
            self._coming.popleft()
        wait = min(max(lasts / slots * (count + len(self._coming)), LEAST), LONGEST)
        self._coming.append(now + wait)
        return wait
