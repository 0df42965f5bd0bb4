"""Places in memory: bases that are there, missing or failing, and a target that remembers what it got."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from image_cache import oci
from image_cache.bake import Added
from image_cache.oci import Artifact, Descriptor
from image_cache.places import Fetched, Known, Origin, Seen, Source
from image_cache.prebuild.journal import Header, Journal
from image_cache.prebuild.lists import Entry
from image_cache.prebuild.schema import Row
from kit.errors import NotFoundError
from kit.nouns import Platform, digest

AMD64 = Platform("amd64")
TO = "reg:5000/baked"
ID = "sha256:" + "1" * 64


def base(name: str, layers: int = 2, arch: str = "amd64") -> Fetched:
    """Manifest and config of an image."""
    held = tuple(Descriptor(oci.GZIP, digest(f"layer {n}".encode()), 100 + n) for n in range(layers))
    config = oci.encode({
        "os": "linux", "architecture": arch, "author": name, "config": {"Entrypoint": ["/x"]},
        "rootfs": {"type": "layers", "diff_ids": [ID] * layers}, "history": [{"created_by": "x"}] * layers,
    })  # fmt: skip
    raw = oci.encode(oci.Manifest(Descriptor(oci.CONFIG, digest(config), len(config)), held))
    return Fetched(raw, config, digest(raw))


class Hub:
    """A source. images: by reference; failing: what is raised next for a reference, one after the other."""

    def __init__(self, name: str = "hub:1", counted: bool = False) -> None:
        self.name, self.counted = name, counted
        self.images: dict[str, Fetched] = {}
        self.failing: dict[str, list[Exception]] = {}
        self.kinds: dict[str, str] = {}  # media types of those that are no plain manifests
        self.asked: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()

    def has(self, count: int, name: str = "a", first: int = 0) -> list[str]:
        """Makes so many images; returns their references."""
        made = [f"{self.name}/{name}/repo:{number}" for number in range(first, first + count)]
        self.images |= {each: base(each) for each in made}
        return made

    def look(self, origin: Origin) -> Seen | None:
        self._note("look", str(origin))
        found = self.images.get(str(origin))
        kind = self.kinds.get(str(origin), oci.MANIFEST)
        return (
            Seen(digest(kind.encode()) if kind == oci.INDEX else found.digest, kind, self.counted)
            if found
            else None
        )

    def image(self, origin: Origin, platform: Platform) -> Fetched:
        name = f"{origin.place}/{origin.repository}:{origin.tag}"
        self._note("image", name)
        if name not in self.images:
            raise NotFoundError(f"{name} does not exist")
        found = self.images[name]
        oci.check_platform(oci.config(found.config, name), platform, name)
        return found

    def blob(self, repository: str, blob: Descriptor) -> Iterator[bytes]:
        yield b"x" * blob.size

    def _note(self, what: str, name: str) -> None:
        with self._lock:
            self.asked[what, name] += 1
            if waiting := self.failing.get(name):
                raise waiting.pop(0)


class Shelf:
    """A target. put: how often each tag was put."""

    oci_only = False

    def __init__(self) -> None:
        self.name = "reg:5000"
        self.tags: dict[tuple[str, str], str] = {}
        self.manifests: dict[str, bytes] = {}
        self.puts: Counter[tuple[str, str]] = Counter()
        self.asked = self.taken = 0
        self.configs: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def find(self, repository: str, tag: str) -> str | None:
        with self._lock:
            self.asked += 1
            return self.tags.get((repository, tag))

    def together(
        self, repository: str, source: Source, source_repository: str, holders: Iterable[str | None]
    ) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def labels(self, repository: str, digest: str) -> dict[str, str]:
        manifest = oci.manifest(self.manifests[digest], digest)
        return oci.labels(oci.config(self.configs[manifest.config.digest], digest))

    def take(
        self, repository: str, blob: Descriptor, source: Source, source_repository: str, known: Known
    ) -> int:
        if known.has(repository, blob.digest):
            return 0
        moved = 0 if known.holder(blob.digest) else blob.size
        known.add(repository, blob.digest)
        self.taken += 1
        return moved

    def give(self, repository: str, blob: Descriptor, raw: bytes) -> int:
        self.configs[blob.digest] = raw
        return len(raw)

    def put(self, repository: str, tag: str, raw: bytes, media_type: str) -> str:
        with self._lock:
            self.puts[repository, tag] += 1
            self.tags[repository, tag] = digest(raw)
            self.manifests[digest(raw)] = raw
        return digest(raw)

    def close(self) -> None:
        pass


def added(name: str = "layer") -> Added:
    def artifact(what: str, size: int) -> Artifact:
        return Artifact(key="k" * 64, digest=digest(what.encode()), diff_id=ID, size=size,
                        media_type=oci.GZIP, path=Path("/nowhere"), name=what)  # fmt: skip

    return Added(platform=AMD64, gzip=artifact(name, 5000), tiny=artifact("tiny", 10),
                 entrypoint=("/slipworks-agent/bin/start",))  # fmt: skip


def journal(folder: Path | None, *references: str, to: str = TO) -> Journal:
    """A journal that wants these."""
    made = Journal(folder, Header(to, AMD64))
    want(made, *references)
    return made


def want(into: Journal, *references: str, replace: bool = False) -> tuple[int, int]:
    def entries() -> Iterator[tuple[Entry, str, str]]:
        for each in references:
            origin = Origin.parse(each)
            yield Entry(str(origin)), origin.place, f"baked/{origin.repository}"

    return into.add(entries(), replace=replace)


def by_base(of: Journal) -> dict[str, Row]:
    return {row.base: row for row in of.rows()}
