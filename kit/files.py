"""Files that matter: written beside their place, fsynced, renamed. Never half there."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from kit.errors import NoSpaceError


def write(path: Path, data: bytes | str, mode: int = 0o644) -> None:
    """Puts a whole file in place atomically and durably. Concurrent writers: the last rename wins, whole."""
    with beside(path) as temporary:
        raw = data.encode() if isinstance(data, str) else data
        with space_named(path), open(temporary, "wb", opener=_private) as file:
            file.write(raw)
        temporary.chmod(mode)
        settle(temporary, path)


@contextlib.contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A fresh name in `path`'s folder for a file or folder to be made; removed if still there at the end.

    The name begins with a dot and `path`'s own name, and ends in `.tmp`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}.tmp"
    try:
        yield temporary
    finally:
        if temporary.is_dir() and not temporary.is_symlink():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


def settle(temporary: Path, path: Path) -> None:
    """fsyncs the finished file (or folder entry), renames it to its place and fsyncs the folder."""
    with space_named(path):
        _fsync(temporary)
        temporary.replace(path)
        _fsync(path.parent)


@contextlib.contextmanager
def space_named(path: Path) -> Iterator[None]:
    """Turns the operating system's "no space" and "quota exceeded" into NoSpaceError naming the place."""
    try:
        yield
    except OSError as full:
        if full.errno in (errno.ENOSPC, errno.EDQUOT):
            where = path if path.is_dir() else path.parent
            raise NoSpaceError(f"no space left for {path}", f"df -h {where}") from full
        raise


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _private(name: str, flags: int) -> int:
    return os.open(name, flags, 0o600)
