"""Files of this machine that images are in: folders, tar archives, single layers of the store."""

from __future__ import annotations

import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from image_cache import streams
from image_cache.oci import Artifact, Descriptor
from image_cache.places import Fetched, Seen
from image_cache.places.origin import Origin
from kit.errors import HashMismatchError, InvalidFileError, NotFoundError
from kit.nouns import Platform


class Files(Protocol):
    """The files of a layout, wherever they lie. Names are relative, with slashes."""

    name: str

    def read(self, name: str) -> bytes:
        """NotFoundError where there is no such file."""

    def pieces(self, name: str) -> Iterator[bytes]: ...

    def size(self, name: str) -> int: ...

    def has(self, name: str) -> bool: ...


class Folder:
    """Of a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.name = str(root)

    def read(self, name: str) -> bytes:
        return b"".join(self.pieces(name))

    def pieces(self, name: str) -> Iterator[bytes]:
        try:
            with (self.root / name).open("rb") as file:
                yield from streams.pieces(file)
        except (FileNotFoundError, NotADirectoryError) as gone:
            raise NotFoundError(f"{self.root} has no {name}", f"ls {self.root}") from gone

    def size(self, name: str) -> int:
        return (self.root / name).stat().st_size

    def has(self, name: str) -> bool:
        return (self.root / name).is_file()


class Archive:
    """Of a plain tar: its entries are looked up once, and read where they lie. Threads may share it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = str(path)
        self._entries: dict[str, tuple[int, int]] | None = None
        self._lock = threading.Lock()

    def read(self, name: str) -> bytes:
        return b"".join(self.pieces(name))

    def pieces(self, name: str) -> Iterator[bytes]:
        at, left = self._entry(name)
        with self.path.open("rb") as file:
            file.seek(at)
            while left and (piece := file.read(min(left, streams.PIECE))):
                left -= len(piece)
                yield piece
        if left:
            raise InvalidFileError(f"{self.path} ends in the middle of {name}")

    def size(self, name: str) -> int:
        return self._entry(name)[1]

    def has(self, name: str) -> bool:
        return name in self._all()

    def names(self) -> list[str]:
        return list(self._all())

    def _entry(self, name: str) -> tuple[int, int]:
        found = self._all().get(name)
        if found is None:
            raise NotFoundError(f"{self.path} has no {name}", f"tar tf {self.path}")
        return found

    def _all(self) -> dict[str, tuple[int, int]]:
        with self._lock:
            if self._entries is None:
                self._entries = self._looked()
            return self._entries

    def _looked(self) -> dict[str, tuple[int, int]]:
        try:
            with tarfile.open(self.path, "r:") as tar:
                members = {member.name.removeprefix("./"): member for member in tar}
        except FileNotFoundError as gone:
            raise NotFoundError(f"{self.path} does not exist") from gone
        except (tarfile.TarError, OSError) as bad:
            raise InvalidFileError(
                f"{self.path} is no plain tar archive: {bad}", f"gunzip {self.path}, if it is packed"
            ) from bad
        found = {name: (one.offset_data, one.size) for name, one in members.items() if one.isreg()}
        for name, one in members.items():  # `docker save` links layers that it has twice
            if one.issym() or one.islnk():
                to = one.linkname if one.islnk() else str(Path(name).parent / one.linkname)
                if (real := _plain(to)) in found:
                    found[name] = found[real]
        return found


def _plain(name: str) -> str:
    parts: list[str] = []
    for part in name.split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


class Shelf:
    """A single layer of the store: a source of that blob and of nothing else."""

    def __init__(self, layer: Artifact) -> None:
        self.layer = layer
        self.name = ""

    def look(self, origin: Origin) -> Seen | None:
        return None

    def image(self, origin: Origin, platform: Platform) -> Fetched:
        raise NotFoundError(f"{origin} is not on a shelf of layers")

    def blob(self, repository: str, blob: Descriptor) -> Iterator[bytes]:
        def read() -> Iterator[bytes]:
            with self.layer.path.open("rb") as file:
                yield from streams.pieces(file)

        return checked(read(), blob, str(self.layer.path))


def checked(pieces: Iterator[bytes], blob: Descriptor, where: str) -> Iterator[bytes]:
    """The same pieces; HashMismatchError after the last one when they are not the blob's."""
    seen = streams.Hash()
    yield from seen.through(pieces)
    if seen.digest != blob.digest:
        raise HashMismatchError(f"{where} has {seen.digest} for {blob.digest}: it is damaged")
