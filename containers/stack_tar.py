"""A folder as a plain tar, the same bytes on every machine, as fast as its files can be read.

Order, times, owners and modes are fixed; what a file is linked with elsewhere does not show. Memory stays at
a few pieces, whatever the files' sizes.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

from containers.root_tar import MTIME
from kit.errors import BuildError

PIECE = 1 << 20


def pieces(folder: Path, at: str) -> Iterator[bytes]:
    """The tar of a folder's tree, in pieces of about 1 MiB. `at`: its place in the image ("opt/stack").

    Parents come first, each folder's names in order; `at` and the folders above are there too, with mode 755.
    Nothing may write to the folder meanwhile: BuildError where a file's size changed.
    """
    waiting: list[bytes] = []  # small things, until they make a piece
    size = total = 0
    for block in _blocks(folder, at):
        total += len(block)
        if len(block) < PIECE:
            waiting.append(block)
            size += len(block)
            if size < PIECE:
                continue
            block = b""
        if waiting:
            yield b"".join(waiting)
            waiting, size = [], 0
        if block:
            yield block
    end = 2 * tarfile.BLOCKSIZE
    yield b"".join(waiting) + bytes(end + -(total + end) % tarfile.RECORDSIZE)


def _blocks(folder: Path, at: str) -> Iterator[bytes]:
    """Headers and contents in order; content is read in pieces and padded to whole blocks."""
    parts = at.split("/")
    for depth in range(1, len(parts) + 1):
        yield _header("/".join(parts[:depth]), tarfile.DIRTYPE, 0o755)
    yield from _below(os.fspath(folder), at)


def _below(folder: str, at: str) -> Iterator[bytes]:
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda each: each.name)
    for entry in entries:
        name = f"{at}/{entry.name}"
        if entry.is_symlink():
            yield _header(name, tarfile.SYMTYPE, 0o777, link=os.readlink(entry.path))  # noqa: PTH115
        elif entry.is_dir(follow_symlinks=False):
            yield _header(name, tarfile.DIRTYPE, 0o755)
            yield from _below(entry.path, name)
        elif entry.is_file(follow_symlinks=False):
            yield from _file(entry.path, name)
        else:
            raise BuildError(f"neither file, folder nor link: {entry.path}")


def _file(path: str, name: str) -> Iterator[bytes]:
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123
        stat = os.fstat(file.fileno())
        yield _header(name, tarfile.REGTYPE, 0o755 if stat.st_mode & 0o100 else 0o644, size=stat.st_size)
        left = stat.st_size
        while left and (block := file.read(min(left, PIECE))):
            left -= len(block)
            yield block
    if left:
        raise BuildError(f"{path} became shorter while it was packed: expected {stat.st_size} bytes")
    yield bytes(-stat.st_size % tarfile.BLOCKSIZE)


# Version, no names of owners, no device, no prefix. Written here, since tarfile's own headers differ by
# Python's version; and ten times as fast, which counts with more than a hundred thousand files.
_USTAR = b"ustar\x0000" + bytes(64) + b"0000000\0" * 2 + bytes(167)
_LARGEST = 8 << 30  # that a header's own field can say


def _header(name: str, kind: bytes, mode: int, *, size: int = 0, link: str = "") -> bytes:
    """A header with nothing of this machine in it: owner 0, one time. PAX's records tell long names."""
    path = os.fsencode(name) + (b"/" if kind == tarfile.DIRTYPE else b"")
    target = os.fsencode(link)
    more = b""
    if len(path) > tarfile.LENGTH_NAME or not path.isascii():
        more += _record(b"path", path)
    if len(target) > tarfile.LENGTH_LINK or not target.isascii():
        more += _record(b"linkpath", target)
    if size >= _LARGEST:
        more += _record(b"size", b"%d" % size)
    if more:
        told = _fields(b"././@PaxHeader", tarfile.XHDTYPE, 0o644, len(more), b"")
        more = told + more + bytes(-len(more) % tarfile.BLOCKSIZE)
    return more + _fields(path, kind, mode, size if size < _LARGEST else 0, target)


def _fields(path: bytes, kind: bytes, mode: int, size: int, target: bytes) -> bytes:
    """One block: name, mode, owner, group, size, time | sum | kind, link and the rest."""
    start = b"%b%07o\0%b%011o\0%011o\0" % (path[:100].ljust(100, b"\0"), mode, _OWNERS, size, MTIME)
    rest = kind + target[:100].ljust(100, b"\0") + _USTAR
    return b"%b%06o\0 %b" % (start, sum(start) + sum(rest) + 8 * 0x20, rest)


_OWNERS = b"0000000\0" * 2


def _record(key: bytes, value: bytes) -> bytes:
    """A line of PAX: it begins with its own length, that number's digits counted."""
    bare = len(key) + len(value) + 3  # space, equals sign, newline
    length = bare + len(str(bare))
    length = bare + len(str(length))
    return b"%d %b=%b\n" % (length, key, value)
