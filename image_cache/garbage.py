"""What of a store nobody needs: found by looking alone. Nothing is changed here (gc.py does that).

Kept are: what is pinned, what was used or made within the asked days, all blobs and notes of that, what costs
no space beside it (the base and the layers of an image that is kept), and all that is so young that it may
belong to a build that is still running. Young is a file that was written or
marked within the last HOUR; or within the last DAY while somebody builds, which is while a claim changes:
a living one does every few seconds, and LATELY is longer than a build goes without one, or a file system
shows an old time. Every build takes claims (ensure.py).

So a process may rely on an image or a layer from the moment that the store has given it, and on a blob from
the moment that it has put or marked it (Blobs.keep), until it has put its image. What takes longer than a
day fails with a clear error and goes on where it was; a record is never left without its blobs by that, for
they are looked at once more when it is written.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct

from image_cache import litter, oci, stamps
from image_cache.artifacts import Layer
from image_cache.catalogue import Catalogue
from image_cache.litter import Garbage
from image_cache.records import Record
from kit.errors import HashMismatchError, InvalidFileError

T = TypeVar("T")

HOUR, DAY = 3600.0, 86400.0
LATELY = 300.0  # seconds since a claim last changed within which its builder counts as living


class Plan(Struct, frozen=True):
    """What can go, in the order in which it must: first what names, then what is named."""

    garbage: tuple[Garbage, ...]

    @property
    def freed(self) -> int:
        """Bytes. Records are left out, for their blobs are in the plan too."""
        return sum(each.size for each in self.garbage if each.kind not in ("image", "layer"))


def plan(
    store: Catalogue,
    keep_days: float,
    scratch: Path | None = None,
    wheels: Path | None = None,
    copies: Sequence[Path] = (),
    *,
    grace: float | None = None,
) -> Plan:
    """All that can go now. `scratch`: a folder in which builds have temporary folders, of this store alone.
    `wheels`: the wheelhouse, of which only what was left unfinished goes. `copies`: folders of what was made
    of images and layers for engines: it goes as they do, after the days that are kept.

    InvalidFileError for a record that cannot be read: it may be a newer kit's, and its blobs in use.
    `grace`: seconds that count as young, whoever builds; only to say what could go later.
    """
    now = stamps.now(store.root) if store.root.exists() else 0.0
    if grace is None:
        grace = DAY if now - last_claim(store) < LATELY else HOUR
    young = now - grace
    cut = min(now - keep_days * DAY, young)
    records, layers = every_record(store), every_layer(store)
    wanted = {at for at, one in records.items() if not litter.old(at, cut) or _pinned(store, one)}
    recent = live(
        store,
        [records[at] for at in wanted],
        [one for at, one in layers.items() if not litter.old(at, cut)],
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
    blobs = list(litter.blobs(store, kept, young))
    sizes = {each.path.name: each.size for each in blobs}
    staying = [one for at, one in records.items() if at not in old_records]
    return Plan(
        (
            *_layers(old_layers, sizes, cut),
            *_images(store, old_records, sizes, cut),
            *litter.sifs(store, staying, list(old_records.values()), cut, young),
            *blobs,
            *litter.notes(store, kept, young),
            *litter.partial(store, young),
            *litter.scratch(scratch, now - DAY),
            *litter.claims(store.claims, now - DAY),
            *litter.wheels(wheels, now - DAY),
            *litter.copies(copies, cut, now - DAY),
        )
    )


class Held(Struct, frozen=True):
    """What stays only because it is young: its bytes, the seconds that count as young, whether somebody
    builds now, and when, by the store's clock, it can go if nobody asks for it again."""

    size: int
    grace: float
    building: bool
    until: float


def held(store: Catalogue, keep_days: float) -> Held | None:
    """What `plan` leaves for a while; None where that is nothing. Unfinished files are not counted."""
    living = last_claim(store)
    building = stamps.now(store.root) - living < LATELY if store.root.exists() else False
    now_gone = {each.path for each in plan(store, keep_days).garbage}
    for grace in (HOUR, 0.0):
        later = [
            each
            for each in plan(store, keep_days, grace=grace).garbage
            if each.kind not in ("partial", "claim") and each.path not in now_gone
        ]
        if size := Plan(tuple(later)).freed:
            last = max(litter.newest(each.path) for each in later)
            until = max(last + HOUR, living + LATELY if building else 0.0)
            return Held(size, DAY if building else HOUR, building, until)
    return None


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
    for path in sorted(litter.entries(folder)):
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


def last_claim(store: Catalogue) -> float:
    """When somebody who builds last gave a sign of life."""
    return max(map(litter.newest, litter.entries(store.claims)), default=0.0)


def _pinned(store: Catalogue, record: Record) -> bool:
    return store.pins.has(record.key, record.format)
