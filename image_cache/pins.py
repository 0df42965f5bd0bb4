"""Images that are kept whether or not they are used: an empty file pins/<key>.<format> each."""

from __future__ import annotations

from pathlib import Path

from image_cache import oci
from kit import files
from kit.nouns import Format


class Pins:
    """The pins below a store's root."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "pins"

    def path(self, key: str, format: Format) -> Path:
        return self.folder / f"{oci.check_name(key)}.{format}"

    def has(self, key: str, format: Format) -> bool:
        return self.path(key, format).exists()

    def put(self, key: str, format: Format) -> None:
        """Idempotent. Holds for what will be made under the key too."""
        files.write(self.path(key, format), b"")

    def drop(self, key: str, format: Format) -> None:
        """Idempotent."""
        self.path(key, format).unlink(missing_ok=True)
