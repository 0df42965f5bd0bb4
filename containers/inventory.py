"""What lies in a layer: every entry with its hash, and the facts of those files that a proof asks about.

Read once from the layer's tar, at best while it is packed, and kept by its diff_id, so that a proof of an
image whose upper layer changed reads that layer alone. Nothing is run, and nothing is written but temporary
files in a folder that is given.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import stat
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from types import ModuleType
from typing import BinaryIO, Literal

import msgspec
from msgspec import Struct

from containers import contents, elf, elf_format, fatbin, ld_cache
from containers.contents import Facts
from kit.errors import InvalidFileError
from kit.nouns import digest

PIECE = 2**20
IN_MEMORY = 32 * 2**20  # files above that are spooled where they must be read in any order

Kind = Literal["file", "folder", "link", "hard", "other"]


class Entry(Struct, frozen=True, array_like=True, gc=False):
    """One path of a layer. sha256 (32 bytes) and size of files; target of links; a hard link that is left
    ("hard") names a path of a lower layer: others are told as the file that they mean."""

    path: str
    kind: Kind
    mode: int
    size: int = 0
    sha256: bytes = b""
    target: str = ""


class Inventory(Struct, frozen=True):
    """A layer. Paths have no leading slash; whiteouts stand as the files they are (.wh.name)."""

    format: str
    entries: tuple[Entry, ...]
    facts: dict[str, Facts]


@functools.cache
def form() -> str:
    """A digest of the programs that decide what an inventory says: what others wrote is read anew."""
    makers = (contents, elf, elf_format, fatbin, ld_cache)
    return digest(b"".join(Path(name).read_bytes() for name in (__file__, *map(_file, makers))))


def _file(module: ModuleType) -> str:
    return str(module.__file__)


def read(pieces: Iterable[bytes], scratch: Path | None = None) -> Inventory:
    """Of a layer's plain tar. InvalidFileError where it is none, or ends early.

    Memory stays flat, but for files up to IN_MEMORY; larger programs lie in `scratch` while they are read.
    """
    collected, passing = _Collected(scratch), _Passing(pieces)
    try:
        with tarfile.open(fileobj=passing, mode="r:") as tar:
            for info in tar:
                collected.add(info, passing)
                tar.members = []  # type: ignore[attr-defined]  # they would all be kept, for a search that nobody makes
    except (tarfile.TarError, EOFError) as bad:
        raise InvalidFileError(f"a layer is damaged: {bad or 'it ends early'}") from bad
    return collected.done()


def beside(
    pieces: Iterable[bytes], scratch: Path | None, tell: Callable[[Inventory], None]
) -> Iterator[bytes]:
    """The pieces themselves, of a layer's plain tar; a thread reads them while they pass.

    `tell` is given the inventory after the last piece, by the thread that takes the pieces, which also gets
    what `read` raises.
    """
    passing: Queue[bytes] = Queue(4)
    source = iter(passing.get, b"")

    def reading() -> Inventory:
        try:
            return read(source, scratch)
        finally:
            for _unread in source:  # whoever puts must never wait in vain
                pass

    with ThreadPoolExecutor(1) as lane:
        found = lane.submit(reading)
        try:
            for piece in pieces:
                if piece:
                    passing.put(piece)
                    yield piece
        finally:
            passing.put(b"")
    tell(found.result())


def read_folder(root: Path) -> Inventory:
    """Of an unpacked tree, as if it were the only layer. Links are told, never followed."""
    collected = _Collected(None)
    for path in sorted(root.rglob("*")):
        collected.add_path(path, str(path.relative_to(root)))
    return collected.done()


def encode(inventory: Inventory) -> bytes:
    """To be kept."""
    return msgspec.msgpack.encode(inventory)


def decode(raw: bytes | None) -> Inventory | None:
    """What `encode` wrote; None for nothing, another format or a damaged one: it is to be read anew."""
    try:
        found = msgspec.msgpack.decode(raw or b"", type=Inventory)
    except msgspec.DecodeError:
        return None
    return found if found.format == form() else None


class _Collected:
    def __init__(self, scratch: Path | None) -> None:
        self.scratch = scratch
        self.entries: dict[str, Entry] = {}
        self.facts: dict[str, Facts] = {}

    def done(self) -> Inventory:
        return Inventory(form(), tuple(self.entries.values()), self.facts)

    def add(self, info: tarfile.TarInfo, tar: _Passing) -> None:
        path = _clean(info.name)
        if info.isreg() and not info.issparse():
            tar.seek(info.offset_data)
            head = b"".join(tar.pieces(min(info.size, contents.HEAD)))
            self._file(path, info.mode & 0o7777, info.size, head, tar.pieces(info.size - len(head)))
        elif info.islnk():
            self._hard(path, info.mode & 0o7777, _clean(info.linkname))
        elif path:
            kind: Kind = "folder" if info.isdir() else "link" if info.issym() else "other"
            self.facts.pop(path, None)
            self.entries[path] = Entry(path, kind, info.mode & 0o7777, target=info.linkname)

    def add_path(self, at: Path, path: str) -> None:
        found = at.lstat()
        mode = stat.S_IMODE(found.st_mode)
        if stat.S_ISREG(found.st_mode):
            with at.open("rb") as file:
                head = file.read(contents.HEAD)
                self._file(path, mode, found.st_size, head, iter(lambda: file.read(PIECE), b""), file)
        elif stat.S_ISLNK(found.st_mode):
            self.entries[path] = Entry(path, "link", mode, target=str(at.readlink()))
        else:
            self.entries[path] = Entry(path, "folder" if stat.S_ISDIR(found.st_mode) else "other", mode)

    def _hard(self, path: str, mode: int, target: str) -> None:
        meant = self.entries.get(target)
        self.facts.pop(path, None)
        if meant and meant.kind == "file":
            self.entries[path] = Entry(path, "file", meant.mode, meant.size, meant.sha256)
            if target in self.facts:
                self.facts[path] = self.facts[target]
        else:
            self.entries[path] = Entry(path, "hard", mode, target=target)

    def _file(
        self, path: str, mode: int, size: int, head: bytes,
        rest: Iterator[bytes] | Iterator[memoryview], there: BinaryIO | None = None,
    ) -> None:  # fmt: skip
        """`there`: the file itself, where it can be read in any order; else what passes is put aside."""
        hashed = hashlib.sha256(head)
        with self._aside(path, head, size, there) as aside:
            copy = aside.write if aside is not there else len
            copy(head)
            for piece in rest:
                hashed.update(piece)
                copy(piece)
            aside.seek(0)
            facts = contents.look(path, head, size, aside)
        self.entries[path] = Entry(path, "file", mode, size, hashed.digest())
        self.facts.pop(path, None)
        if facts:
            self.facts[path] = facts

    @contextlib.contextmanager
    def _aside(self, path: str, head: bytes, size: int, there: BinaryIO | None) -> Iterator[BinaryIO]:
        """Where bytes are put while they pass: nowhere, in memory, or in a file without a name."""
        if there:
            yield there
        elif not contents.wanted(path, head):
            yield _Nowhere()
        elif size <= IN_MEMORY:
            yield io.BytesIO()
        else:
            with tempfile.TemporaryFile(dir=self.scratch) as file:
                yield file


class _Nowhere(io.BytesIO):
    def write(self, data: object) -> int:
        return 0


class _Passing(io.RawIOBase):
    """Pieces as a file that is read from its beginning to its end, once; it can skip and not go back."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = (each for each in pieces if each)
        self._left = memoryview(b"")
        self._at = 0

    def tell(self) -> int:
        return self._at

    def seek(self, to: int, whence: int = 0) -> int:
        for _skipped in self.pieces(to - self._at):
            pass
        return self._at

    def read(self, size: int = -1) -> bytes:
        try:
            return b"".join(self.pieces(size))
        except EOFError:
            return b""

    def pieces(self, size: int) -> Iterator[memoryview]:
        """The next `size` bytes, uncopied. EOFError where there are not so many."""
        while size:
            if not self._left:
                self._left = memoryview(next(self._pieces, b""))
                if not self._left:
                    raise EOFError
            found, self._left = self._left[:size], self._left[size:]
            self._at += len(found)
            size -= len(found)
            yield found


def _clean(name: str) -> str:
    return "" if name == "." else name.removeprefix("./").strip("/")
