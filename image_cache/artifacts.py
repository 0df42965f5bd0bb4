"""Layers that images are made of, by key: artifacts/<key>.json says what blob a key came out as."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from image_cache import oci, stamps
from image_cache.blobs import Blobs
from image_cache.oci import Artifact, Descriptor
from image_cache.records import read
from kit import files
from kit.say import once


class Layer(Struct, frozen=True):
    """What a record says. No path: another host may see the store elsewhere."""

    blob: Descriptor
    diff_id: str
    name: str = ""


class Artifacts:
    """The records of layers in the folder of some blobs."""

    def __init__(self, blobs: Blobs) -> None:
        self.blobs = blobs
        self.folder = blobs.root / "artifacts"

    def path(self, key: str) -> Path:
        return self.folder / f"{oci.check_name(key)}.json"

    def get(self, key: str) -> Artifact | None:
        """None when there is none, and, after a word, when its blob is gone or cut short. Stamps a hit."""
        found = read(self.path(key), Layer)
        if found is None:
            return None
        if not self.blobs.has(found.blob):
            once(f"the layer {key[:12]} in {self.blobs.root} is damaged and counts as missing")
            return None
        return self._artifact(key, found) if stamps.hit(self.path(key)) else None

    def put(self, key: str, blob: Descriptor, diff_id: str, name: str) -> Artifact:
        """Atomic. The blob is there already."""
        layer = Layer(blob, diff_id, name)
        with self.blobs.writable():
            files.write(self.path(key), oci.encode(layer))
        return self._artifact(key, layer)

    def _artifact(self, key: str, layer: Layer) -> Artifact:
        return Artifact(
            key=key,
            digest=layer.blob.digest,
            diff_id=layer.diff_id,
            size=layer.blob.size,
            media_type=layer.blob.media_type,
            path=self.blobs.blob(layer.blob.digest),
            name=layer.name,
        )
