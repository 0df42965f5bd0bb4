"""How large the images of a list are, asked of their registries before any SIF is made.

One that does not answer is given up soon: what is to come is a forecast, and nobody waits for it long.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from msgspec import Struct

from containers.workplace import packed_size
from image_cache.prebuild import planning
from image_cache.prebuild.lists import Entry
from image_cache.prebuild.schema import ErrorClass
from image_cache.store import Store
from kit import progress
from kit.errors import SlipworksError
from runner.sif_making import host_of
from runner.sif_sources import Sources

SAMPLE = 20  # images by which the rest is judged, where the registry counts the manifests that it sends
_ENOUGH: dict[ErrorClass, int] = {"transient": 3, "auth": 20, "quota": 1}
"""So many images of a registry that fail in a row, each after the client's own tries: so will be the rest."""


class Looked(Struct, frozen=True, kw_only=True):
    """What was learned.

    sizes    packed bytes of each image that is known.
    unknown  images that were asked for in vain, or not at all for their registry was given up.
    first    the first of them, with its failure.
    in_vain  nothing is known of any, and no registry said as much as that there is no such image.
    """

    sizes: list[int]
    unknown: int = 0
    first: tuple[str, SlipworksError] | None = None
    in_vain: bool = False


def look(
    sources: Sources, store: Store, entries: Sequence[Entry], *, sample: int = SAMPLE, at_once: int = 8,
    every: float = 10.0,
) -> Looked:  # fmt: skip
    """At all images, or the first `sample` of those not yet known where the registry counts what it sends.
    Raises nothing of what a registry answers: an image's turn will tell. every: as in kit/progress.py."""
    looking = _Looking(sources, store)
    there = {each.base for each in entries if sources.known(each.base)}
    new = [each for each in entries if each.base not in there]
    first, rest = new[:sample], new[sample:]
    with ThreadPoolExecutor(at_once) as pool:
        found = list(pool.map(looking.size, [each for each in entries if each.base in there]))
        if not new:
            return looking.learned(found)
        with progress.bar(f"asking for the sizes of {len(new)} images", len(new), every) as told:
            for count, size in enumerate(pool.map(looking.size, first), 1):
                found.append(size)
                told(count, looking.note)
            if any(sources.client(host).quota for host in {host_of(each) for each in rest}):
                return looking.learned(found)
            for count, size in enumerate(pool.map(looking.size, rest), 1 + len(first)):
                found.append(size)
                told(count, looking.note)
    return looking.learned(found)


class _Looking:
    """Threads may share it."""

    def __init__(self, sources: Sources, store: Store) -> None:
        self.sources, self.store = sources, store
        self._first: tuple[str, SlipworksError] | None = None
        self._answered = False
        self._failed = 0
        self._row: dict[str, tuple[ErrorClass, int]] = {}  # host -> what fails there, and how often in a row
        self._lock = threading.Lock()

    @property
    def note(self) -> str:
        return f"{self._failed} not known" if self._failed else ""

    def size(self, entry: Entry) -> int | None:
        """Packed bytes; None: it could not be learned."""
        if self._given_up(host_of(entry)) and not self.sources.known(entry.base):
            with self._lock:
                self._failed += 1
            return None
        try:
            source = self.sources.of(entry.base)
            mine = self.store.find(source.key, "oci")
            found = packed_size(mine) if mine else source.packed
        except SlipworksError as failure:
            self._fails(entry, failure)
            return None
        with self._lock:
            self._answered = True
            self._row.pop(host_of(entry), None)
        return found

    def learned(self, found: Sequence[int | None]) -> Looked:
        sizes = [each for each in found if each is not None]
        vain = self._first is not None and not self._answered
        return Looked(sizes=sizes, unknown=len(found) - len(sizes), first=self._first, in_vain=vain)

    def _given_up(self, host: str) -> bool:
        with self._lock:
            kind, times = self._row.get(host, ("ours", 0))
            return times >= _ENOUGH.get(kind, times + 1)

    def _fails(self, entry: Entry, failure: SlipworksError) -> None:
        kind, host = planning.error_class(failure), host_of(entry)
        with self._lock:
            self._failed += 1
            self._first = self._first or (entry.base, failure)
            if kind not in _ENOUGH:  # which is an answer too
                self._answered = True
                self._row.pop(host, None)
                return
            before, times = self._row.get(host, (kind, 0))
            self._row[host] = (kind, times + 1 if before == kind else 1)
