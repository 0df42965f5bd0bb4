"""The SIFs that `runner prebuild sif` made, by all the names that its lists had for them.

A list of what was baked names each image by its base, too: a client that asks for the base gets the SIF with
the agent-server in it, and no registry is asked.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path

from image_cache.store import Store
from kit.nouns import Image
from runner.sif_sources import Sources


class SifNames:
    """folder: with the maps, one below each list's own. Threads may share it."""

    def __init__(self, folder: Path, store: Store, sources: Sources) -> None:
        self.folder, self.store, self.sources = folder, store, sources
        self._read: dict[Path, tuple[int, dict[str, str]]] = {}
        self._lock = threading.Lock()

    def find(self, *names: str) -> Image | None:
        """The newest map that has one of the names, and whose SIF is still there, decides."""
        for paths in self._maps():
            for name in names:
                if path := paths.get(name):
                    same = (each for each, other in paths.items() if other == path)
                    if found := next(filter(None, map(self._in_store, same)), None):
                        return found
        return None

    def _in_store(self, name: str) -> Image | None:
        """By the reference that it was made of; to find it there keeps it from `runner image gc`."""
        source = self.sources.known(name)
        return self.store.find(source.key, "sif") if source else None

    def _maps(self) -> list[dict[str, str]]:
        """The newest first; each is read when it is new."""
        with self._lock:
            found: dict[Path, tuple[int, dict[str, str]]] = {}
            for path in self.folder.glob("*/sifs.json"):
                try:
                    time = path.stat().st_mtime_ns
                    before = self._read.get(path)
                    same = before is not None and before[0] == time
                    found[path] = before if before and same else (time, dict(json.loads(path.read_bytes())))
                except (OSError, ValueError):  # it went, or is none
                    continue
            self._read = found
            return [paths for _, paths in sorted(found.values(), key=lambda each: -each[0])]
