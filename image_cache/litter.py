"""The files and folders of a store that can go, found by kind. What is needed, and what is young, the caller
says. Nothing is changed here.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Literal

from msgspec import Struct

from image_cache.catalogue import ASIDE, Catalogue
from image_cache.records import Record

BESIDE = ("", ".json", ".cdx.json")  # what a SIF's files are named after its whole name
Kind = Literal["image", "layer", "sif", "blob", "note", "partial", "claim", "copy"]


class Garbage(Struct, frozen=True, kw_only=True):
    """A file or folder that can go. size: its bytes; of an image's or a layer's record those of the blobs
    that go with it, each counted once. `before`: it goes only if it was not written or marked since then."""

    kind: Kind
    name: str
    path: Path
    size: int
    before: float


def sifs(
    store: Catalogue, kept: Collection[Record], going: Collection[Record], cut: float, young: float
) -> Iterator[Garbage]:
    """SIFs that have no record, or will have none, with what lies beside them: `<name>.sif.json`, say."""
    needed, lost = sif_files(kept), sif_files(going)
    for path in entries(store.sif_folder):
        last = cut if path.name in lost else young
        if path.name not in needed and old(path, last):
            yield from _found("sif", path.name, path, last)


def sif_files(records: Iterable[Record]) -> set[str]:
    """The names of all files that belong to these SIFs. Names may hold `.sif`, and are not parsed."""
    return {f"{one.name}.sif{end}" for one in records if one.format == "sif" for end in BESIDE}


def blobs(store: Catalogue, kept: set[str], before: float) -> Iterator[Garbage]:
    for path in entries(store.blobs):
        if f"sha256:{path.name}" not in kept and old(path, before):
            yield from _found("blob", path.name[:12], path, before)


def notes(store: Catalogue, kept: set[str], before: float) -> Iterator[Garbage]:
    for folder in store.notes.kinds():
        for path in entries(folder):
            if f"sha256:{path.name}" not in kept and old(path, before):
                yield from _found("note", f"{folder.name} {path.name[:12]}", path, before)


def partial(store: Catalogue, before: float) -> Iterator[Garbage]:
    """What killed processes left: temporary files of every folder. A living writer writes all the time."""
    for folder in store.folders:
        for path in sorted(folder.glob(".*.tmp")):
            if not path.name.startswith(ASIDE):
                yield from _untouched("partial", path.name, path, before)


def scratch(folder: Path | None, before: float) -> Iterator[Garbage]:
    for path in sorted(folder.iterdir()) if folder and folder.is_dir() else ():
        yield from _untouched("partial", path.name, path, before)


def claims(folder: Path, before: float) -> Iterator[Garbage]:
    for path in entries(folder):
        yield from _untouched("claim", path.name[:12], path, before)


def wheels(folder: Path | None, before: float) -> Iterator[Garbage]:
    """Of a wheelhouse temporary files and dead claims alone: what is in it under a name stays."""
    if folder is None:
        return
    for path in sorted(folder.glob("*/.*.tmp")):
        yield from _untouched("partial", path.name, path, before)
    yield from claims(folder / "claims", before)


def copies(folders: Iterable[Path], cut: float, before: float) -> Iterator[Garbage]:
    """What was made of the store's images and layers for engines (unpacked, squashed, archived), each marked
    when it is used (stamps.py); made again when it is wanted."""
    for folder in folders:
        for path in entries(folder):
            yield from _untouched("copy", f"{folder.name}/{path.name}", path, cut)
        for path in sorted(folder.glob(".*.tmp")):
            yield from _untouched("partial", path.name, path, before)


def _untouched(kind: Kind, name: str, path: Path, before: float) -> Iterator[Garbage]:
    if newest(path) <= before:
        yield from _found(kind, name, path, before)


def _found(kind: Kind, name: str, path: Path, before: float) -> Iterator[Garbage]:
    with contextlib.suppress(FileNotFoundError):
        yield Garbage(kind=kind, name=name, path=path, size=_size(path), before=before)


def old(path: Path, before: float) -> bool:
    """Whether a file is there, and was not written or marked since then."""
    try:
        return path.lstat().st_mtime <= before
    except FileNotFoundError:
        return False


def entries(folder: Path) -> list[Path]:
    """What is in a folder under a name of its own; temporary files have none yet."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _size(path: Path) -> int:
    """Bytes that come free: what has another name elsewhere (a link into uv's cache) does not count."""
    stats = [each.lstat() for each in _tree(path)]
    return sum(each.st_size for each in stats if each.st_nlink == 1)


def newest(path: Path) -> float:
    """The last time when something in a tree was made or written; never, if it is gone."""
    times = [0.0]
    for each in _tree(path):
        with contextlib.suppress(FileNotFoundError):
            times.append(each.lstat().st_mtime)
    return max(times)


def _tree(path: Path) -> Iterator[Path]:
    yield path
    if path.is_dir() and not path.is_symlink():
        for folder, folders, names in os.walk(path):
            yield from (Path(folder, name) for name in (*folders, *names))
