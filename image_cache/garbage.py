"""What of a store nobody needs: found by looking alone. Nothing is changed here (gc.py does that).

Kept are: what is pinned, what was used or made within the asked days, all blobs and notes of that, what costs
no space beside it (the base and the layers of an image that is kept), and all that is so young that it may
belong to a build that is still running. Young is a file that was written or
marked within the last HOUR; or within the last DAY while somebody builds, which is while a claim changes
(a living one does every few seconds) or did within the HOUR. Every build takes claims (ensure.py).

So a process may rely on an image or a layer from the moment that the store has given it, and on a blob from
the moment that it has put or marked it (Blobs.keep), until it has put its image. What takes longer than a
day fails with a clear error and goes on where it was; a record is never left without its blobs by that, for
they are looked at once more when it is written.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, TypeVar

import msgspec
from msgspec import Struct

from image_cache import oci, stamps
from image_cache.artifacts import Layer
from image_cache.catalogue import ASIDE, Catalogue
from image_cache.records import Record
from kit.errors import HashMismatchError, InvalidFileError

T = TypeVar("T")

HOUR, DAY = 3600.0, 86400.0
BESIDE = ("", ".json", ".cdx.json")  # what a SIF's files are named after its whole name
Kind = Literal["image", "layer", "sif", "blob", "note", "partial", "claim"]


class Garbage(Struct, frozen=True, kw_only=True):
    """A file or folder that can go. size: its bytes; of an image's or a layer's record those of the blobs
    that go with it, each counted once. `before`: it goes only if it was not written or marked since then."""

    kind: Kind
    name: str
    path: Path
    size: int
    before: float


class Plan(Struct, frozen=True):
    """What can go, in the order in which it must: first what names, then what is named."""

    garbage: tuple[Garbage, ...]

    @property
    def freed(self) -> int:
        """Bytes. Records are left out, for their blobs are in the plan too."""
        return sum(each.size for each in self.garbage if each.kind not in ("image", "layer"))


def plan(store: Catalogue, keep_days: float, scratch: Path | None = None) -> Plan:
    """All that can go now. `scratch`: a folder in which builds have temporary folders, of this store alone.

    InvalidFileError for a record that cannot be read: it may be a newer kit's, and its blobs in use.
    """
    now = stamps.now(store.root) if store.root.exists() else 0.0
    young = now - (DAY if _building(store, now) else HOUR)
    cut = min(now - keep_days * DAY, young)
    records, layers = every_record(store), every_layer(store)
    wanted = {at for at, one in records.items() if not _old(at, cut) or _pinned(store, one)}
    recent = live(
        store,
        [records[at] for at in wanted],
        [one for at, one in layers.items() if not _old(at, cut)],
    )
    old_records = {
        at: one for at, one in records.items() if at not in wanted and not _costless(store, one, recent)
    }
    old_layers = {at: one for at, one in layers.items() if one.blob.digest not in recent}
    kept = live(
        store,
        [one for at, one in records.items() if at not in old_records],
        [one for at, one in layers.items() if at not in old_layers],
    )
    blobs = list(_blobs(store, kept, young))
    sizes = {each.path.name: each.size for each in blobs}
    return Plan(
        (
            *_layers(old_layers, sizes, cut),
            *_images(store, old_records, sizes, cut),
            *_sifs(store, records, old_records, cut, young),
            *blobs,
            *_notes(store, kept, young),
            *_partial(store, young),
            *_scratch(scratch, now - DAY),
            *_claims(store, now),
        )
    )


def _costless(store: Catalogue, record: Record, recent: set[str]) -> bool:
    """Whether all layers of an image are needed by others."""
    layers = _manifest(store, record).layers if record.format == "oci" else ()
    return bool(layers) and all(layer.digest in recent for layer in layers)


def every_record(store: Catalogue) -> dict[Path, Record]:
    """The records of images, by file. Strict: see `plan`."""
    return _every(store.records.folder, Record)


def every_layer(store: Catalogue) -> dict[Path, Layer]:
    """The records of layers, by file. Strict."""
    return _every(store.artifacts.folder, Layer)


def live(store: Catalogue, records: Iterable[Record], layers: Iterable[Layer]) -> set[str]:
    """The digests of all that these need: manifests, configs, blobs of layers, and the tars inside them."""
    found: set[str] = set()
    for record in records:
        found |= {record.digest, *_digests(store, record)}
    for layer in layers:
        found |= {layer.blob.digest, layer.diff_id}
    return found


def _digests(store: Catalogue, record: Record) -> list[str]:
    """Of an image whose manifest or config is damaged what can be read: it counts as missing anyway."""
    if record.format == "sif" or not (manifest := _manifest(store, record)).layers:
        return []
    found = [blob.digest for blob in manifest.blobs]
    with contextlib.suppress(InvalidFileError, HashMismatchError):
        found += oci.diff_ids(oci.config(store.read(manifest.config.digest), record.name), record.name)
    return found


def _manifest(store: Catalogue, record: Record) -> oci.Manifest:
    try:
        return oci.manifest(store.read(record.digest), record.name)
    except (InvalidFileError, HashMismatchError):
        return oci.Manifest(oci.Descriptor(oci.CONFIG, record.digest, 0), ())


def _every(folder: Path, kind: type[T]) -> dict[Path, T]:
    found = {}
    for path in sorted(_entries(folder)):
        if path.suffix == ".json":
            with contextlib.suppress(FileNotFoundError):  # gone since we looked
                found[path] = _read(path, kind)
    return found


def _read(path: Path, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except msgspec.DecodeError as bad:
        raise InvalidFileError(
            f"nothing was removed: {path} cannot be read, and what it needs is not known: {bad}",
            f"rm '{path}'  # unless a newer slipworks wrote it",
        ) from bad


def _images(
    store: Catalogue, records: dict[Path, Record], sizes: dict[str, int], cut: float
) -> Iterator[Garbage]:
    for path, record in records.items():
        size = _taken(sizes, [record.digest, *_digests(store, record)])
        yield Garbage(kind="image", name=f"{record.name} ({record.format})", path=path, size=size, before=cut)


def _layers(layers: dict[Path, Layer], sizes: dict[str, int], cut: float) -> Iterator[Garbage]:
    for path, layer in layers.items():
        name = f"{layer.name or 'layer'} {path.name[:12]}"
        yield Garbage(kind="layer", name=name, path=path, size=_taken(sizes, [layer.blob.digest]), before=cut)


def _taken(sizes: dict[str, int], digests: Iterable[str]) -> int:
    """Each blob is counted with the first that had it."""
    return sum(sizes.pop(digest.removeprefix("sha256:"), 0) for digest in digests)


def _sifs(
    store: Catalogue, records: dict[Path, Record], going: dict[Path, Record], cut: float, young: float
) -> Iterator[Garbage]:
    """SIFs that have no record, or will have none, with what lies beside them: `<name>.sif.json`, say."""
    kept = sif_files(one for at, one in records.items() if at not in going)
    lost = sif_files(one for at, one in records.items() if at in going)
    for path in _entries(store.sif_folder):
        last = cut if path.name in lost else young
        if path.name not in kept and _old(path, last):
            yield from _found("sif", path.name, path, last)


def sif_files(records: Iterable[Record]) -> set[str]:
    """The names of all files that belong to these SIFs. A name may hold dots, and `.sif`: it is not parsed."""
    return {f"{one.name}.sif{end}" for one in records if one.format == "sif" for end in BESIDE}


def _blobs(store: Catalogue, kept: set[str], young: float) -> Iterator[Garbage]:
    for path in _entries(store.blobs):
        if f"sha256:{path.name}" not in kept and _old(path, young):
            yield from _found("blob", path.name[:12], path, young)


def _notes(store: Catalogue, kept: set[str], young: float) -> Iterator[Garbage]:
    for folder in store.notes.kinds():
        for path in _entries(folder):
            if f"sha256:{path.name}" not in kept and _old(path, young):
                yield from _found("note", f"{folder.name} {path.name[:12]}", path, young)


def _partial(store: Catalogue, young: float) -> Iterator[Garbage]:
    """What killed processes left: temporary files of every folder. A living writer writes all the time."""
    for folder in store.folders:
        for path in sorted(folder.glob(".*.tmp")):
            if not path.name.startswith(ASIDE) and newest(path) <= young:
                yield from _found("partial", path.name, path, young)


def _scratch(folder: Path | None, before: float) -> Iterator[Garbage]:
    for path in sorted(folder.iterdir()) if folder and folder.is_dir() else ():
        if newest(path) <= before:
            yield from _found("partial", path.name, path, before)


def _claims(store: Catalogue, now: float) -> Iterator[Garbage]:
    for path in _entries(store.claims):
        if newest(path) <= now - DAY:
            yield from _found("claim", path.name[:12], path, now - DAY)


def _building(store: Catalogue, now: float) -> bool:
    return any(newest(path) > now - HOUR for path in _entries(store.claims))


def _pinned(store: Catalogue, record: Record) -> bool:
    return store.pins.has(record.key, record.format)


def _found(kind: Kind, name: str, path: Path, before: float) -> Iterator[Garbage]:
    with contextlib.suppress(FileNotFoundError):
        yield Garbage(kind=kind, name=name, path=path, size=_size(path), before=before)


def _old(path: Path, before: float) -> bool:
    try:
        return path.lstat().st_mtime <= before
    except FileNotFoundError:
        return False


def _entries(folder: Path) -> list[Path]:
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
