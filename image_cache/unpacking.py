"""An image's files, as a folder: its layers one over the other, without root and without an engine."""

from __future__ import annotations

import contextlib
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from image_cache import streams
from image_cache.oci import Descriptor
from image_cache.store import Store
from kit.errors import InvalidFileError
from kit.nouns import Image, digest

WHITEOUT, OPAQUE = ".wh.", ".wh..wh..opq"


def unpack(store: Store, image: Image, folder: Path) -> None:
    """Puts the files of an image of the store into a new folder: for reading them, not for running on them.

    Owners are the caller, devices are left out, and no entry reaches outside the folder. InvalidFileError
    for a layer that is damaged or tries to.
    """
    folder.mkdir(parents=True)
    for layer in store.opened(image)[0].layers:
        _apply(store, layer, folder)


def unpack_layer(store: Store, layer: Descriptor, folder: Path) -> None:
    """The same of one layer alone."""
    folder.mkdir(parents=True)
    _apply(store, layer, folder)


def _apply(store: Store, layer: Descriptor, folder: Path) -> None:
    with _opened(store, layer) as tar:
        for member in tar:
            _place(tar, member, folder)


@contextlib.contextmanager
def _opened(store: Store, layer: Descriptor) -> Iterator[tarfile.TarFile]:
    with store.blob(layer.digest).open("rb") as packed:
        plain = _Reader(streams.unpacked(packed, layer.media_type, layer.digest))
        try:
            with tarfile.open(fileobj=plain, mode="r|") as tar:  # type: ignore[call-overload]
                yield tar
        except tarfile.TarError as bad:
            raise InvalidFileError(f"{layer.digest} is no layer that can be unpacked: {bad}") from bad


def file(store: Store, layers: Sequence[Descriptor], name: str) -> bytes | None:
    """The content of one file of layers that lie one over the other, lowest first; None where there is none.

    `name` as tar entries have it, without a slash in front. Layers are read from the top down, each once:
    what was found in one, or not, is noted in the store.
    """
    for layer in reversed(layers):
        kind = "file-" + digest(name.encode()).removeprefix("sha256:")[:16]
        noted = store.note(layer.digest, kind)
        if noted is None:
            noted = _sought(store, layer, name)
            store.put_note(layer.digest, kind, noted)
        if noted[:1] in _FOUND:
            return noted[1:] if noted[:1] == _THERE else None
    return None


_THERE, _REMOVED, _SILENT = b"+", b"-", b" "
_FOUND = (_THERE, _REMOVED)


def _sought(store: Store, layer: Descriptor, name: str) -> bytes:
    """What one layer says of a file: that it is there, with its content; that it is removed; or nothing."""
    path = PurePosixPath(name)
    ways = (path, *path.parents[:-1])
    removed = {str(way.parent / mark) for way in ways for mark in (WHITEOUT + way.name, OPAQUE)}
    said = _SILENT
    with _opened(store, layer) as tar:
        for member in tar:
            at = member.name.removeprefix("./").lstrip("/")
            if at == name and member.isreg() and (source := tar.extractfile(member)) is not None:
                return _THERE + source.read()
            if at in removed:
                said = _REMOVED
    return said


def _place(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    path = _inside(folder, member.name)
    if path == folder:
        return
    if path.name == OPAQUE:
        for below in path.parent.iterdir() if path.parent.is_dir() else ():
            _remove(below)
        return
    if path.name.startswith(WHITEOUT):
        _remove(path.with_name(path.name.removeprefix(WHITEOUT)))
        return
    if not member.isdir() or path.is_symlink():
        _remove(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if member.isdir():
        path.mkdir(exist_ok=True)
    elif member.issym():
        path.symlink_to(member.linkname)
    elif member.islnk():
        path.hardlink_to(_inside(folder, member.linkname))
    elif (source := tar.extractfile(member)) is not None:
        with path.open("xb") as file:
            shutil.copyfileobj(source, file)
        path.chmod(0o755 if member.mode & 0o100 else 0o644)


def _inside(folder: Path, name: str) -> Path:
    """Where an entry goes. Links on the way there are followed by the kernel, so they must stay inside."""
    path = folder / name.lstrip("/")
    if path == folder:
        return path
    if ".." in path.parts or not path.parent.resolve().is_relative_to(folder.resolve()):
        raise InvalidFileError(f"a layer's entry {name!r} reaches outside its folder")
    return path


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


class _Reader:
    """Pieces as a file that is read once, as tarfile reads it."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self.pieces, self.rest = pieces, bytearray()

    def read(self, size: int) -> bytes:
        while len(self.rest) < size and (piece := next(self.pieces, None)) is not None:
            self.rest += piece
        taken = bytes(self.rest[:size])
        del self.rest[:size]
        return taken
