"""What there is in a store: images, layers and notes by their keys, found, described, held against digests.

The store (store.py) adds what puts things there.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from image_cache import intact, oci, stamps
from image_cache.artifacts import Artifacts
from image_cache.blobs import Blobs, file_size
from image_cache.notes import Notes
from image_cache.oci import Artifact, Descriptor
from image_cache.pins import Pins
from image_cache.records import Record, Records, look_again
from kit.errors import HashMismatchError, InvalidFileError
from kit.nouns import Format, Image, digest_file
from kit.say import once

ASIDE = ".gc."  # how the name of a file begins that is about to be removed (gc.py)


class Catalogue(Blobs):
    """All that lies below `root`, which need not be there yet."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.records = Records(root)
        self.artifacts = Artifacts(self)
        self.notes = Notes(root)
        self.pins = Pins(root)
        self.claims = root / "claims"
        self.sif_folder = root / "sif"
        self._parts = (self.records, self.artifacts, self.pins)

    def find(self, key: str, format: Format) -> Image | None:
        """The image of a key, or None. Fast: sizes are compared, and only the manifest is hashed.

        A record whose blobs are gone or cut short is no hit, and is told. A hit is named in index.json,
        and stamped as used now.
        """
        record = self.records.get(key, format)
        if record is None:
            return None
        if wrong := self._damage(record):
            once(f"{record.name} in {self.root} is damaged and counts as missing: {wrong}")
            return None
        if not stamps.hit(self.records.path(key, format)):
            return None
        if format == "oci" and not self.records.indexed(record):
            with self.writable():
                self.records.write_index()
        return self._image(record)

    def look_again(self) -> None:
        look_again(self.records.folder, self.artifacts.folder)

    def list(self) -> tuple[Image, ...]:
        """All that there is, by name."""
        return tuple(self._image(record) for record in self.records.all())

    def opened(self, image: Image) -> tuple[oci.Manifest, dict[str, Any]]:
        """An image's manifest and config, both checked against their digests."""
        manifest = oci.manifest(self.read(image.digest), f"{self.root}: {image.name}")
        return manifest, oci.config(self.read(manifest.config.digest), f"{self.root}: {image.name}")

    def artifact(self, key: str) -> Artifact | None:
        """The layer of a key, or None; one whose blob is gone or cut short is None too."""
        return self.artifacts.get(key)

    def note(self, digest: str, kind: str) -> bytes | None:
        """What was noted of a digest under `kind`; None when nothing was, or when it is damaged."""
        return self.notes.get(digest, kind)

    def sif_path(self, name: str) -> Path:
        """Where the SIF of a name lies, whether or not it is there."""
        return self.sif_folder / f"{name}.sif"

    def _image(self, record: Record) -> Image:
        return Image(
            key=record.key,
            name=record.name,
            format=record.format,
            platform=record.platform,
            digest=record.digest,
            path=self.root if record.format == "oci" else self.sif_path(record.name),
            labels=record.labels,
        )

    def damaged(self, image: Image, seen: dict[str, str | None] | None = None) -> Sequence[tuple[Path, str]]:
        """The files of an image that are damaged, with what is wrong. Without them it counts as missing.

        `seen`: what is known of blobs already, and is not read again; more is added to it.
        """
        if image.format == "sif":
            path = self.sif_path(image.name)
            found = digest_file(path) if path.exists() else "nothing"
            return [] if found == image.digest else [(path, f"{path.name} hashes to {found}")]
        try:
            manifest = oci.manifest(self.read(image.digest), image.name)
        except (InvalidFileError, HashMismatchError) as bad:
            return [(self.blob(image.digest), bad.message)]
        return self.damaged_blobs(manifest.blobs, seen)

    def damaged_blobs(
        self, wanted: Sequence[Descriptor], seen: dict[str, str | None] | None = None
    ) -> Sequence[tuple[Path, str]]:
        """The same for some blobs."""
        found = intact.damaged(self, wanted, {} if seen is None else seen)
        return [(self.blob(blob.digest), wrong) for blob, wrong in found]

    def size(self, image: Image) -> int:
        """Bytes of all of an image's files that are there; images share layers."""
        if image.format == "sif":
            return file_size(self.sif_path(image.name)) or 0
        try:
            manifest = self.opened(image)[0]
        except (InvalidFileError, HashMismatchError):
            return 0
        return sum(file_size(self.blob(one)) or 0 for one in (image.digest, *_digests(manifest)))

    def _damage(self, record: Record) -> str | None:
        """What is wrong with the files that a record names, or None."""
        if record.format == "sif":
            found = file_size(self.sif_path(record.name))
            return None if found == record.size else f"{record.name}.sif has {found} bytes of {record.size}"
        try:
            manifest = oci.manifest(self.read(record.digest), record.name)
        except (InvalidFileError, HashMismatchError) as bad:
            return bad.message
        return intact.cut_short(self, manifest.blobs)

    @property
    def folders(self) -> tuple[Path, ...]:
        """Every folder in which files of the store are made and removed."""
        kinds = self.notes.kinds()
        return (
            self.root,
            self.blobs,
            self.sif_folder,
            self.claims,
            *(each.folder for each in self._parts),
            *kinds,
        )


def _digests(manifest: oci.Manifest) -> set[str]:
    return {blob.digest for blob in manifest.blobs}
