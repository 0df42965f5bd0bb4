"""Blobs by digest in a folder: the part of the store that knows nothing of keys and names.

A blob appears under its digest only whole and synced, and never changes. What a process that was killed
leaves is a temporary file in the same folder.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from image_cache import oci, stamps, streams
from image_cache.oci import Descriptor
from kit import files
from kit.errors import HashMismatchError, HostError, InvalidFileError, NoSpaceError
from kit.nouns import digest as hash_of

Look = Callable[[Iterator[bytes]], Iterator[bytes]]
"""Gives on the pieces of a layer's tar as they are: what reads them while they pass."""


class Blobs:
    """The blobs of the layout at `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.blobs = root / "blobs" / "sha256"

    def blob(self, digest: str) -> Path:
        """Where a blob lies, whether or not it is there."""
        return self.blobs / digest.removeprefix("sha256:")

    def has(self, blob: Descriptor) -> bool:
        """Whether a blob is there in its full size."""
        return file_size(self.blob(blob.digest)) == blob.size

    def keep(self, blob: Descriptor) -> bool:
        """Whether a blob is there. It is marked, so that it can be made part of an image: see garbage.py."""
        return self.has(blob) and stamps.wanted(self.blob(blob.digest))

    def read(self, digest: str) -> bytes:
        """A small blob (manifest, config), checked against its digest."""
        try:
            raw = self.blob(digest).read_bytes()
        except FileNotFoundError as gone:
            raise InvalidFileError(f"{self.root} lacks the blob {digest}") from gone
        if (found := hash_of(raw)) != digest:
            raise HashMismatchError(f"{self.blob(digest)} is damaged: it hashes to {found}")
        return raw

    def put_blob(
        self, pieces: Iterable[bytes], media_type: str, promised: str | None = None, *, large: bool = False
    ) -> Descriptor:
        """A blob from its pieces, hashed while it is written. HashMismatchError, and nothing put, when it is
        not the promised one. Of concurrent puts of one blob any may win: they are the same bytes.

        `large`: the pieces are, and are hashed by a thread beside the one that writes.
        """
        seen = streams.Hash()
        with self.writable():
            self.blobs.mkdir(parents=True, exist_ok=True)
        with files.beside(self.blobs / "incoming") as temporary:
            self._fill(temporary, seen.beside(pieces) if large else seen.through(pieces))
            if promised not in (None, seen.digest):
                raise HashMismatchError(f"a blob hashes to {seen.digest}: expected {promised}")
            with self.writable():
                temporary.chmod(0o644)
                files.settle(temporary, self.blob(seen.digest))
        return Descriptor(media_type, seen.digest, seen.size)

    def _fill(self, path: Path, pieces: Iterable[bytes]) -> None:
        """Only what writing raises is told as the store's trouble: `pieces` may have files of their own.
        Unbuffered, so that closing after a failure does not fail again."""
        with self.writable():
            file = path.open("xb", buffering=0)
        with file:
            for piece in pieces:
                rest = memoryview(piece)
                with self.writable():
                    while rest:
                        rest = rest[file.write(rest) :]

    def put_plain(self, tar: Iterable[bytes], level: int = streams.LEVEL) -> tuple[Descriptor, str]:
        """A plain tar as a packed blob, and its diff_id, in one pass. Equal tars, equal blobs."""
        plain = streams.Hash()
        blob = self.put_blob(streams.packed(tar, plain, level), oci.ZSTD, large=True)
        return blob, plain.digest

    def put_layer_file(self, path: Path, look: Look | None = None) -> tuple[Descriptor, str]:
        """A layer's file as a blob, packed if it was plain; and its diff_id. InvalidFileError for no tar."""
        with path.open("rb") as file:
            media_type = streams.compression(file.read(4))
            file.seek(0)
            tar = streams.tar_only(streams.unpacked(file, media_type, str(path)), str(path))
            tar = look(tar) if look else tar
            if media_type == oci.TAR:
                return self.put_plain(tar)
            plain = streams.Hash()
            for _ in plain.beside(tar):  # to the end before the put: a damaged file is not taken in
                pass
            file.seek(0)
            return self.put_blob(streams.pieces(file), media_type), plain.digest

    @contextlib.contextmanager
    def writable(self) -> Iterator[None]:
        """Says in one line that the store may not be written to, or that its disk is full."""
        try:
            with written("image store", self.root), files.space_named(self.blobs):
                yield
        except NoSpaceError as full:
            raise NoSpaceError(full.message, self.space_hint() or full.hint) from full

    def space_hint(self) -> str | None:
        """What would free space, where something would."""
        return None


@contextlib.contextmanager
def written(what: str, root: Path) -> Iterator[None]:
    """HostError, in one line, where something of the cache may not be written to."""
    try:
        yield
    except OSError as bad:
        if bad.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR):
            raise HostError(
                f"cannot write to the {what} {root}: {bad.strerror}",
                "export SLIPWORKS_CACHE=<a folder of yours>",
            ) from bad
        raise


def file_size(path: Path) -> int | None:
    """In bytes; None when there is no such file."""
    try:
        return path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return None
