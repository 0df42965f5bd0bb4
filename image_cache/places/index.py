"""The names of a layout, kept in memory: of ten thousand each costs what it costs of ten."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Raw, Struct

from image_cache import oci
from image_cache.oci import Descriptor
from kit import files

EMPTY = msgspec.json.encode({"schemaVersion": 2, "mediaType": oci.INDEX, "manifests": []})


class _Entry(Struct):
    digest: str
    annotations: dict[str, Any] | None = None

    @property
    def name(self) -> str | None:
        return (self.annotations or {}).get(oci.REF_NAME)


class Index:
    """An index.json, and what stands for it where there is none. Looked into again when it became another
    file. What is not known here of it is kept, byte by byte. Threads may share it."""

    def __init__(self, path: Path, instead: bytes = EMPTY, where: str = "") -> None:
        self.path, self._instead, self._where = path, instead, where or str(path)
        self._lock = threading.Lock()
        self._stamp: object = None
        self._table: dict[str, Raw] = {}
        self._entries: list[tuple[str | None, Raw]] = []
        self._digests: dict[str, str] = {}
        self._take(instead)

    def find(self, name: str) -> str | None:
        """The digest of the first entry of a name."""
        with self._lock:
            self._look()
            return self._digests.get(name)

    def write(self, named: Mapping[str, Descriptor]) -> None:
        """Makes names stand for these, and for nothing else; the file appears whole."""
        with self._lock:
            self._look()
            kept = [each for each in self._entries if each[0] not in named]
            kept += [(name, Raw(oci.encode(entry))) for name, entry in named.items()]
            files.write(
                self.path, msgspec.json.encode({**self._table, "manifests": [one for _, one in kept]})
            )
            self._entries, self._stamp = kept, self._stamped()
            self._digests |= {name: entry.digest for name, entry in named.items()}

    def _look(self) -> None:
        stamp = self._stamped()
        if stamp == self._stamp:
            return
        try:
            raw = self.path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raw = self._instead
        self._take(raw)
        self._stamp = stamp

    def _take(self, raw: bytes) -> None:
        oci.index(raw, self._where)
        self._table = msgspec.json.decode(raw, type=dict[str, Raw])
        raws = msgspec.json.decode(self._table["manifests"], type=list[Raw])
        read = [msgspec.json.decode(one, type=_Entry) for one in raws]
        self._entries = [(one.name, raw) for one, raw in zip(read, raws, strict=True)]
        self._digests = {one.name: one.digest for one in reversed(read) if one.name is not None}

    def _stamped(self) -> object:
        try:
            found = self.path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns
