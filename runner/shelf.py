"""What lies in the store, for people: a line an image, what gc removes, what is damaged."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

from msgspec import Struct, json

from image_cache import garbage, gc
from image_cache.garbage import Held, Plan
from image_cache.litter import Garbage
from image_cache.store import Store
from kit import say
from kit.nouns import Image
from runner import known, proof, shown

COPIES = ("layers", "archives")  # of the cache's folder: layer_mounts.py, chosen.py


class Row(Struct, frozen=True, kw_only=True):
    """An image of the store. size: bytes of all its files, of which images may share some; created: UTC;
    used: days since it was last asked for; verified: what the last proof here said, None where there was
    none; said: what the image says of itself, as one that was pulled may."""

    name: str
    key: str
    format: str
    platform: str
    digest: str
    size: int
    created: str
    used: float
    pinned: bool
    verified: bool | None
    said: bool | None


def rows(store: Store) -> tuple[Row, ...]:
    """Every image, by name and format."""
    return tuple(_row(store, image) for image in store.list())


def _row(store: Store, image: Image) -> Row:
    about = known.of(store, image)
    proved = about.record.proof if about.recorded else None
    report = None if proved else proof.known(store, image)
    said = {"passed": True, "failed": False}.get(image.labels.get("slipworks.verified", ""))
    return Row(
        name=image.name,
        key=image.key,
        format=image.format,
        platform=str(image.platform),
        digest=image.digest,
        size=store.size(image),
        created=about.since or "",
        used=_days(store.records.path(image.key, image.format)),
        pinned=store.pins.has(image.key, image.format),
        verified=proved.passed if proved else not report.failed if report else None,
        said=said,
    )


def _days(path: Path) -> float:
    try:
        return round(max(0.0, time.time() - path.stat().st_mtime) / 86400, 2)
    except FileNotFoundError:
        return 0.0


_SAID = {True: "says so", False: "says not", None: "no"}
HEADS = ("NAME", "FORMAT", "PLATFORM", "SIZE", "AGE", "USED", "PINNED", "VERIFIED", "DIGEST")


def table(found: Sequence[Row]) -> Iterator[tuple[str, ...]]:
    """The cells of each line, without the heads."""
    for row in found:
        born = (time.time() - datetime.fromisoformat(row.created).timestamp()) / 86400 if row.created else 0.0
        verified = "FAILED" if row.verified is False else "yes" if row.verified else _SAID[row.said]
        yield (
            row.name, row.format, row.platform, shown.size(row.size), age(born), age(row.used),
            "yes" if row.pinned else "", verified, row.digest[:19],
        )  # fmt: skip


def age(days: float) -> str:
    """`3 min`, `5 h`, `12 d`."""
    if days >= 2:
        return f"{days:.0f} d"
    return f"{days * 24:.0f} h" if days * 24 >= 2 else f"{max(0.0, days) * 1440:.0f} min"


def clean(store: Store, keep_days: float, *, dry: bool, as_json: bool) -> int:
    """Removes what nobody needs, or only says what that is; returns the bytes that came (would come) free.

    What stays only for a while is told on stderr.
    """
    above = store.root.parent
    copies = [above / name for name in COPIES]
    plan = garbage.plan(store, keep_days, above / "scratch", above / "wheels", copies)
    if dry:
        freed = _told(list(plan.garbage), plan.freed, "would free", as_json)
    else:
        gone: list[Garbage] = []
        try:
            gc.collect(store, plan, gone.append)
        finally:
            freed = _told(gone, Plan(tuple(gone)).freed, "freed", as_json)
    if kept := garbage.held(store, keep_days):
        say.say(_held(kept))
    return freed


def _held(kept: Held) -> str:
    if kept.building:
        why = "younger than a day, and images are being built, or were within the last minutes"
    else:
        why = "younger than an hour, so a build may need it"
    when = time.strftime("%H:%M", time.localtime(kept.until + 60))  # whole minutes, and not too early
    return f"kept: {shown.size(kept.size)} {why}; asked again after {when}, this would free it"


def _told(garbage: Sequence[Garbage], freed: int, verb: str, as_json: bool) -> int:
    """What has a name of its own in a line each; what only its folder knows, in a line a kind."""
    if as_json:
        told = {"freed": freed, "garbage": garbage}
        say.answer(json.format(json.encode(told, enc_hook=str)).decode())
        return freed
    for kind in ("image", "layer"):
        for each in (each for each in garbage if each.kind == kind):
            say.answer(f"{kind:<8} {shown.size(each.size):>8}  {each.name}")
    for kind, words in (
        ("sif", "SIF files"),
        ("blob", "blobs"),
        ("note", "notes"),
        ("copy", "made for engines"),
        ("partial", "unfinished"),
    ):
        sizes = [each.size for each in garbage if each.kind == kind]
        if sizes:
            say.answer(f"{kind:<8} {shown.size(sum(sizes)):>8}  {len(sizes)} {words}")
    say.answer(f"{verb} {shown.size(freed)}")
    return freed


class Damage(Struct, frozen=True, kw_only=True):
    """A file that is not what its digest says, and whose it is: images' names, layers by name and key."""

    path: Path
    wrong: str
    of: tuple[str, ...]


def damages(store: Store, images: Sequence[Image], *, layers: bool) -> list[Damage]:
    """Reads every byte of some images, and of all layers if asked to: each file once."""
    seen: dict[str, str | None] = {}
    found: dict[Path, tuple[str, list[str]]] = {}
    for image in images:
        for path, wrong in store.damaged(image, seen):
            found.setdefault(path, (wrong, []))[1].append(image.name)
    for at, layer in garbage.every_layer(store).items() if layers else ():
        name = f"the layer {layer.name or 'of'} {at.name[:12]}"
        for path, wrong in store.damaged_blobs([layer.blob], seen):
            found.setdefault(path, (wrong, []))[1].append(name)
    return [Damage(path=path, wrong=wrong, of=tuple(of)) for path, (wrong, of) in found.items()]
