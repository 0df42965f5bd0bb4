"""An image's files, as a folder: its layers one over the other, without root and without an engine."""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

from image_cache import streams
from image_cache.oci import Descriptor
from image_cache.store import Store
from kit.errors import InvalidFileError
from kit.nouns import Image

WHITEOUT, OPAQUE = ".wh.", ".wh..wh..opq"


def unpack(store: Store, image: Image, folder: Path) -> None:
    """Puts the files of an image of the store into a new folder: for reading them, not for running on them.

    Owners are the caller, devices are left out, and no entry reaches outside the folder. InvalidFileError
    for a layer that is damaged or tries to.
    """
    folder.mkdir(parents=True)
    for layer in store.opened(image)[0].layers:
        _apply(store, layer, folder)


def _apply(store: Store, layer: Descriptor, folder: Path) -> None:
    with store.blob(layer.digest).open("rb") as packed:
        plain = _Reader(streams.unpacked(packed, layer.media_type, layer.digest))
        try:
            with tarfile.open(fileobj=plain, mode="r|") as tar:  # type: ignore[call-overload]
                for member in tar:
                    _place(tar, member, folder)
        except tarfile.TarError as bad:
            raise InvalidFileError(f"{layer.digest} is no layer that can be unpacked: {bad}") from bad


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
