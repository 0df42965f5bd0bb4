"""Where images are taken from and put to: what a bake asks of a registry, a layout or an archive.

All of them may be used by many threads at once.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol

from msgspec import Struct

from image_cache.oci import Descriptor
from image_cache.places.origin import Origin
from kit.nouns import Platform

__all__ = ["Fetched", "Known", "Origin", "Remembered", "Seen", "Source", "Target"]


class Seen(Struct, frozen=True):
    """What a name stands for now: an image, or an index of several. Learned without a manifest's bytes.

    counted: the place announces a quota, so manifests should not be fetched only to look at them.
    """

    digest: str
    media_type: str
    counted: bool = False


class Fetched(Struct, frozen=True):
    """An image of one platform, as it is: manifest, config, and the manifest's digest."""

    manifest: bytes
    config: bytes
    digest: str


class Source(Protocol):
    """Where bases are. `name` tells one source from another: a registry's host, or a path."""

    name: str

    def look(self, origin: Origin) -> Seen | None:
        """None: the place answered that there is no such name. What could not be learned is raised."""

    def image(self, origin: Origin, platform: Platform) -> Fetched:
        """Manifest and config, each fetched once and checked against its digest; through an index where there
        is one. NotFoundError; WrongPlatformError naming what there is; SchemaOneError."""

    def blob(self, repository: str, blob: Descriptor) -> Iterator[bytes]:
        """All bytes of a blob, in pieces; goes on by itself where a connection broke. HashMismatchError when
        they are not the promised ones, after the last piece."""


class Known(Protocol):
    """What is remembered of the target between runs: which repository has which blob."""

    def has(self, repository: str, digest: str) -> bool: ...

    def add(self, repository: str, digest: str) -> None: ...

    def forget(self, repository: str, digest: str) -> None: ...

    def holder(self, digest: str) -> str | None:
        """Some repository of the target that has the blob."""


class Target(Protocol):
    """Where baked images go. A layout's names are `repository:tag`.

    oci_only: manifests of Docker's family cannot be put, so images become OCI (bake.as_oci).
    """

    name: str
    oci_only: bool

    def find(self, repository: str, tag: str) -> str | None:
        """The digest that a tag stands for; None when the place answered that there is no such tag."""

    def labels(self, repository: str, digest: str) -> dict[str, str]:
        """The labels of an image that is there."""

    def together(
        self, repository: str, source: Source, source_repository: str, holders: Iterable[str | None]
    ) -> AbstractContextManager[None]:
        """Inside, the thread makes one image of a base of `source_repository`: what it has to be authorized
        for is asked at once. holders: repositories of the target that have blobs of it."""

    def take(
        self, repository: str, blob: Descriptor, source: Source, source_repository: str, known: Known
    ) -> int:
        """Makes a blob part of a repository; returns the bytes that were moved.

        Once for each (repository, digest), and each digest is moved at most once, also among threads: it is
        found there, or mounted from where it is, or else streamed from the source.
        """

    def give(self, repository: str, blob: Descriptor, raw: bytes) -> int:
        """The same of a small blob that is made here and nowhere else."""

    def put(self, repository: str, tag: str, raw: bytes, media_type: str) -> str:
        """Puts a manifest whose blobs are there under a tag, atomically; returns its digest.
        BlobsMissingError when the place lacks some after all."""

    def close(self) -> None:
        """Makes what was put last: an archive is written then. Idempotent."""


class Remembered:
    """Known, of this process alone."""

    def __init__(self) -> None:
        self._repositories: dict[str, set[str]] = {}  # by digest
        self._lock = threading.Lock()

    def has(self, repository: str, digest: str) -> bool:
        with self._lock:
            return repository in self._repositories.get(digest, ())

    def add(self, repository: str, digest: str) -> None:
        with self._lock:
            self._repositories.setdefault(digest, set()).add(repository)

    def forget(self, repository: str, digest: str) -> None:
        with self._lock:
            self._repositories.get(digest, set()).discard(repository)

    def holder(self, digest: str) -> str | None:
        with self._lock:
            return next(iter(self._repositories.get(digest, ())), None)
