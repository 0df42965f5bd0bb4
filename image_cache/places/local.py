"""Blobs that lie in files of this machine, as a source."""

from __future__ import annotations

from collections.abc import Iterator

from image_cache import streams
from image_cache.oci import Artifact, Descriptor
from image_cache.places import Fetched, Seen
from image_cache.places.origin import Origin
from kit.errors import HashMismatchError, NotFoundError
from kit.nouns import Platform


class Shelf:
    """A single layer of the store: a source of that blob and of nothing else."""

    def __init__(self, layer: Artifact) -> None:
        self.layer = layer
        self.name = ""

    def look(self, origin: Origin) -> Seen | None:
        return None

    def image(self, origin: Origin, platform: Platform) -> Fetched:
        raise NotFoundError(f"{origin} is not on a shelf of layers")

    def blob(self, repository: str, blob: Descriptor) -> Iterator[bytes]:
        seen = streams.Hash()
        with self.layer.path.open("rb") as file:
            yield from seen.through(streams.pieces(file))
        if seen.digest != blob.digest:
            raise HashMismatchError(f"{self.layer.path} is damaged: it hashes to {seen.digest}")
