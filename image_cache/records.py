"""What a key came out as: one small file for each key and format, and index.json, which is made of them.

index.json is shared by all writers, and a lock that could be trusted on Lustre and NFS does not exist. So it
holds nothing of its own: a writer first puts its record, then writes the index of all records that it sees,
then looks again, and repeats until the index on disk is what the records say. Whoever renames last looks
after that once more and so sees every record that was put before; a record put later has a writer who has
yet to write the index. A writer killed in between, or a stale listing, leaves an index without some name;
Store.find looks for the name it returns and writes the index again.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct

from image_cache import oci
from kit import files
from kit.errors import InvalidFileError
from kit.nouns import Format, Platform
from kit.say import once

T = TypeVar("T")
LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'


class Record(Struct, frozen=True, kw_only=True):
    """An image that is in the store. digest and size are of the manifest (oci) or of the file (sif);
    created is the time of the put, in UTC."""

    key: str
    name: str
    format: Format
    platform: Platform
    digest: str
    size: int
    created: str
    labels: dict[str, str] = {}


class Records:
    """The records below a store's root, and its index.json."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / "refs"

    def path(self, key: str, format: Format) -> Path:
        return self.folder / f"{oci.check_name(key)}.{format}.json"

    def get(self, key: str, format: Format) -> Record | None:
        return read(self.path(key, format), Record)

    def all(self) -> tuple[Record, ...]:
        """Every record, by name and format."""
        found = (read(path, Record) for path in self.folder.glob("[!.]*.json"))
        return tuple(sorted((one for one in found if one), key=lambda one: (one.name, one.format)))

    def put(self, record: Record) -> None:
        """Atomic. After this the image is a hit."""
        files.write(self.path(record.key, record.format), oci.encode(record))
        if record.format == "oci":
            self.write_index()

    def drop(self, key: str, format: Format) -> None:
        """Idempotent. The image's blobs stay: others may share them."""
        self.path(key, format).unlink(missing_ok=True)
        if format == "oci":
            self.write_index()

    def check_free(self, key: str, name: str, format: Format) -> None:
        """A name is an address in the layout, so it stands for one key. (Our names hold their key.)"""
        for one in self.all():
            if (one.name, one.format) == (name, format) and one.key != key:
                raise InvalidFileError(
                    f"the name {name} in {self.root} belongs to the key {one.key[:12]}: found {key[:12]}"
                )

    def indexed(self, record: Record) -> bool:
        """Whether index.json leads from the record's name to its digest."""
        found = read(self.root / "index.json", oci.Index)
        return found is not None and any(
            one.digest == record.digest and one.annotations.get(oci.REF_NAME) == record.name
            for one in found.manifests
        )

    def write_index(self) -> None:
        """Makes index.json what the records say. The argument why this needs no lock is at the top."""
        if not (self.root / "oci-layout").exists():
            files.write(self.root / "oci-layout", LAYOUT)
        path = self.root / "index.json"
        while not path.exists() or path.read_bytes() != self._index():
            files.write(path, self._index())

    def _index(self) -> bytes:
        return oci.encode(oci.Index(tuple(_entry(record) for record in self.all() if record.format == "oci")))


def _entry(record: Record) -> oci.Descriptor:
    stated = {"architecture": record.platform.arch, "os": record.platform.os}
    return oci.Descriptor(
        oci.MANIFEST, record.digest, record.size, platform=stated, annotations={oci.REF_NAME: record.name}
    )


def look_again(*folders: Path) -> None:
    """NFS clients remember for a while that a name was not there; opening a folder asks the server."""
    for folder in folders:
        with contextlib.suppress(FileNotFoundError):
            sum(1 for _ in folder.iterdir())


def read(path: Path, kind: type[T]) -> T | None:
    """A JSON file of ours; None when there is none, or, after a word, when it cannot be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, OSError) as bad:
        once(f"passing over {path}, which cannot be read: {bad}")
        return None
