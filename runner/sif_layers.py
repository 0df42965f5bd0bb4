"""Layers on their way into SIFs: in a folder of this process alone, and no longer than they are needed.

Images of one dataset share layers, so what was pulled stays for the next image as long as it fits into the
budget; the longest unused goes first. At the end all of it goes. What a killed process leaves, the next one
on this machine takes over; `runner image gc` removes it after a day.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator

from image_cache import transfer
from image_cache.claim import Claim
from image_cache.registry import Registry
from image_cache.store import Store
from kit.nouns import Image, Platform
from runner.sif_sources import Source

FOLDER = "sif-layers"
SMALL = 1 << 20  # bytes: manifests and configs stay to the end, for nobody counts who needs them


class Layers:
    """Pulled layers in the store `at`, of which those that no image needs now may have `budget` bytes."""

    def __init__(self, at: Store, budget: int) -> None:
        self.at, self.budget = at, budget
        self._needed: Counter[str] = Counter()
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def pulled(
        self, source: Source, platform: Platform, client: Registry, progress: Callable[[str], None]
    ) -> Iterator[Image]:
        """The image, as long as the block lasts. Threads may share layers; each is pulled once."""
        digests = {each.digest for each in source.opened.blobs}
        with self._lock:
            self._needed.update(digests)
        try:
            yield transfer.bring(
                source.wanted, source.manifest, platform, self.at, client, progress, key=source.key
            )
        finally:
            self.at.records.drop(source.key, "oci")
            with self._lock:
                self._needed.subtract(digests)
                self._trim()

    def _trim(self) -> None:
        """The store marks a layer whenever it is asked for: the oldest mark goes first."""
        idle = []
        for path in self.at.blobs.glob("[0-9a-f]*"):
            if self._needed[f"sha256:{path.name}"] <= 0:
                with contextlib.suppress(FileNotFoundError):
                    found = path.stat()
                    if found.st_size <= SMALL:
                        continue
                    idle.append((found.st_mtime, found.st_size, path))
        kept = 0
        for _, size, path in sorted(idle, reverse=True):
            kept += size
            if kept > self.budget:
                path.unlink(missing_ok=True)


@contextlib.contextmanager
def on_the_way(store: Store, budget: int) -> Iterator[Layers]:
    """A place for layers beside the store, on its disk; empty at the end."""
    above = store.root.parent / "scratch"
    with store.writable():
        above.mkdir(parents=True, exist_ok=True)
    for number in itertools.count():
        place = above / f"{FOLDER}-{number}"
        with contextlib.ExitStack() as held:
            if not held.enter_context(Claim(store.claims / f"{FOLDER}-{number}").taken()):
                continue
            try:
                yield Layers(Store(place), budget)
            finally:
                shutil.rmtree(place, ignore_errors=True)
            return
