"""Facts derived from what a digest names (inventories, reports, bills of materials): notes/<kind>/<hex>.

A note can always be made again, so one that is damaged counts as absent.
"""

from __future__ import annotations

from pathlib import Path

from image_cache import oci
from kit import files
from kit.nouns import check_digest

LEVEL = 6  # JSON of some megabytes, written once and read often


class Notes:
    """The notes below a store's root."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "notes"

    def path(self, digest: str, kind: str) -> Path:
        return self.folder / oci.check_name(kind) / check_digest(digest, "a note").removeprefix("sha256:")

    def kinds(self) -> list[Path]:
        """The folders of the kinds that there are."""
        try:
            return sorted(self.folder.iterdir())
        except FileNotFoundError:
            return []

    def get(self, digest: str, kind: str) -> bytes | None:
        """The bytes that were put; None when there are none, or not those."""
        import zstandard

        try:
            packed = self.path(digest, kind).read_bytes()
        except OSError:
            return None
        try:
            return zstandard.ZstdDecompressor().decompress(packed)
        except zstandard.ZstdError:
            return None

    def put(self, digest: str, kind: str, raw: bytes) -> None:
        """Atomic. Packed with a checksum, which is what tells a damaged note."""
        import zstandard

        packer = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True)
        files.write(self.path(digest, kind), packer.compress(raw))
