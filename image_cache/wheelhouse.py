"""The wheelhouse: extensions that were compiled here, or taken as published, each by its hash.

    <root>/<sha256>/<file>.whl     wheels of one name may differ: the same package for two GPUs
    <root>/records/<key>.json      what a key came out as
    <root>/claims/…                who compiles what now (claim.py)

As in the store a file appears under its name only whole and synced, a wheel never changes, and a record is
written after its wheel. The key is of all that a wheel is for and made by: package, version and sources,
platform, Python, torch, compute capabilities, base, what compiles it and how. The record tells it all.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

from msgspec import Struct, json

from image_cache.blobs import file_size, written
from image_cache.ensure import once_only
from image_cache.records import look_again, read
from kit import files
from kit.errors import HashMismatchError
from kit.nouns import Wheel, digest_file, key_of
from kit.say import once


class Kept(Struct, frozen=True, kw_only=True):
    """A wheel of the wheelhouse.

    purpose  all that the key is made of, by name.
    origin   where it came from: "compiled", or the URL or file that it was taken from.
    codes    the GPU code that was found in it, as sm_90.
    seconds  that compiling took; None where it was not compiled here.
    """

    key: str
    wheel: Wheel
    size: int
    purpose: dict[str, str]
    origin: str
    created: str
    codes: tuple[str, ...] = ()
    glibc: str | None = None
    seconds: float | None = None


class Wheelhouse:
    """A wheelhouse at `root`; the folder is made by the first put. Any number of processes may share it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.claims = root / "claims"
        self.records = root / "records"

    def path(self, wheel: Wheel) -> Path:
        """Where a wheel lies, whether or not it is there."""
        return self.root / wheel.sha256 / wheel.file

    def find(self, key: str) -> Kept | None:
        """The wheel of a key, or None. Fast: its size is compared; who installs it compares its hash.

        A record whose wheel is gone or cut short is no hit, and is told.
        """
        kept = read(self.records / f"{key}.json", Kept)
        if kept is None:
            return None
        if (found := file_size(self.path(kept.wheel))) != kept.size:
            once(f"{self.path(kept.wheel)} counts as missing: it has {found} bytes of {kept.size}")
            return None
        return kept

    def checked(self, wheel: Wheel) -> Path:
        """The wheel's file, after it was hashed. HashMismatchError when it is damaged."""
        path = self.path(wheel)
        if (found := digest_file(path).removeprefix("sha256:")) != wheel.sha256:
            raise HashMismatchError(f"{path} is damaged: it hashes to {found}", f"rm -r {path.parent}")
        return path

    def list(self) -> tuple[Kept, ...]:
        """All that there is, by name."""
        found = (self.find(path.stem) for path in self.records.glob("[!.]*.json"))
        return tuple(sorted((each for each in found if each), key=lambda each: (each.wheel, each.key)))

    def put(
        self, file: Path, *, name: str, version: str, purpose: Mapping[str, str], origin: str,
        codes: tuple[str, ...] = (), glibc: str | None = None, seconds: float | None = None,
    ) -> Kept:  # fmt: skip
        """Copies a checked wheel in, under its own file name, and records it; atomic. The last put of a key
        counts: what was recorded before keeps its file."""
        sha256 = digest_file(file).removeprefix("sha256:")
        wheel = Wheel(name, version, file.name, sha256)
        target = self.path(wheel)
        kept = Kept(
            key=key_of(dict(purpose)), wheel=wheel, size=file.stat().st_size, purpose=dict(purpose),
            origin=origin, codes=codes, glibc=glibc, seconds=seconds,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )  # fmt: skip
        with self.writable():
            if file_size(target) != kept.size:
                with files.beside(target) as temporary, files.space_named(target):
                    shutil.copyfile(file, temporary)
                    files.settle(temporary, target)
            self.checked(wheel)
            files.write(self.records / f"{kept.key}.json", json.format(json.encode(kept)))
        return kept

    def ensure(self, key: str, build: Callable[[], Kept]) -> Kept:
        """The wheel of `key`: at once when it is there, else by `build`, which must put it. Of all that ask
        at the same time one compiles and the others wait; see `image_cache.ensure`."""
        return once_only(self, key, "wheel", lambda: self.find(key), build)

    def look_again(self) -> None:
        look_again(self.records)

    @contextlib.contextmanager
    def writable(self) -> Iterator[None]:
        """Says in one line that the wheelhouse may not be written to, or that its disk is full."""
        with written("wheelhouse", self.root), files.space_named(self.root):
            yield
