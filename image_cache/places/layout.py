"""OCI layouts: where bases come from, also in an archive, and baked images go to."""

from __future__ import annotations

import contextlib
import errno
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from image_cache import oci
from image_cache.answers import BlobsMissingError
from image_cache.blobs import Blobs
from image_cache.oci import Descriptor
from image_cache.places import Fetched, Known, Seen, Source
from image_cache.places.files import Files, Folder, checked
from image_cache.places.index import Index
from image_cache.places.origin import Origin
from image_cache.places.turns import Turns
from kit import files
from kit.errors import HashMismatchError, HostError, InvalidFileError, NotFoundError
from kit.nouns import Platform, digest

LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
INDEX = "index.json"


class LayoutSource:
    """Bases in an OCI layout: `oci:DIR[:NAME]`, `oci-archive:FILE[:NAME]`."""

    def __init__(self, files: Files) -> None:
        self.files = files
        self.name = files.name

    def look(self, origin: Origin) -> Seen | None:
        if origin.digest:
            return Seen(origin.digest, "")
        entries = self._entries(origin)
        if len({one.digest for one in entries}) == 1:
            return Seen(entries[0].digest, entries[0].media_type)
        # Of several platforms side by side the layout's own index is the index.
        return Seen(digest(self.files.read(INDEX)), oci.INDEX) if entries else None

    def image(self, origin: Origin, platform: Platform) -> Fetched:
        whole = self.files.read(INDEX)
        if origin.digest in (None, digest(whole)):
            entries = self._entries(Origin(origin.kind, origin.place, origin.repository, origin.tag))
            if not entries:
                raise NotFoundError(f"{origin} does not exist", f"the names are in {self.name}: index.json")
            found = entries[0].digest if len(entries) == 1 else self._chosen(entries, platform, origin)
        else:
            found = str(origin.digest)
        raw = self.read(found)
        if oci.kind_of(raw, f"{origin}") in (oci.INDEX, oci.DOCKER_LIST):
            found = self._chosen(oci.index(raw, f"{origin}").manifests, platform, origin)
            raw = self.read(found)
        config = self.read(oci.manifest(raw, f"{origin}").config.digest)
        oci.check_platform(oci.config(config, f"{origin}"), platform, f"{origin}")
        return Fetched(raw, config, found)

    def blob(self, repository: str, blob: Descriptor) -> Iterator[bytes]:
        return checked(self.files.pieces(_path(blob.digest)), blob, self.name)

    def _entries(self, origin: Origin) -> list[Descriptor]:
        index = oci.index(self.files.read(INDEX), self.name)
        named = [one for one in index.manifests if one.annotations.get(oci.REF_NAME) == origin.tag]
        return named if origin.tag else list(index.manifests)

    def _chosen(self, entries: Any, platform: Platform, origin: Origin) -> str:
        found = oci.choose(entries, platform, f"{origin}")
        if len({one.digest for one in found}) > 1:
            raise InvalidFileError(
                f"{origin} has several images for {platform}: say which",
                f"{origin.kind}:{origin.place}:NAME",
            )
        return found[0].digest

    def read(self, wanted: str) -> bytes:
        """A small blob, checked against its digest."""
        raw = self.files.read(_path(wanted))
        if digest(raw) != wanted:
            raise HashMismatchError(f"{self.name} is damaged: {wanted} hashes to {digest(raw)}")
        return raw


class _Written(Blobs):
    """The blobs of a layout that is somebody's own, and not the kit's store."""

    @contextlib.contextmanager
    def writable(self) -> Iterator[None]:
        try:
            with files.space_named(self.blobs):
                yield
        except OSError as bad:
            if bad.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR):
                raise HostError(
                    f"cannot write to {self.root}: {bad.strerror}", f"ls -ld {self.root.parent}"
                ) from bad
            raise


class LayoutTarget:
    """`oci:DIR`: an image is named `repository:tag` in its index, as oci:DIR:repository:tag for engines.

    Many threads may put; other programs may read meanwhile, and their names stay. Of two processes that put
    at the same moment one could lose a name.
    """

    oci_only = True  # podman passes over manifests of Docker's family in a layout

    def __init__(self, root: Path) -> None:
        self.root = root
        self.name = str(root)
        self.blobs = _Written(root)
        self._turns = Turns()
        self._lock = threading.Lock()
        self._waiting: dict[str, Descriptor] = {}  # by name: put, and not in the index yet
        self._writing = threading.Lock()
        self.index = Index(root / INDEX)
        if (root / "refs").is_dir():
            raise InvalidFileError(f"{root} is this kit's own store, whose index is made of its records",
                                   "give another folder")  # fmt: skip

    def there(self) -> Files:
        """Where what is there can be read."""
        return Folder(self.root)

    def find(self, repository: str, tag: str) -> str | None:
        found = self.index.find(f"{repository}:{tag}")
        return found if found and self.there().has(_path(found)) else None

    def together(
        self, repository: str, source: Source, source_repository: str, holders: Iterable[str | None]
    ) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()  # a folder asks for nothing

    def labels(self, repository: str, digest: str) -> dict[str, str]:
        where, there = f"{self.name}: {digest}", LayoutSource(self.there())
        config = there.read(oci.manifest(there.read(digest), where).config.digest)
        return oci.labels(oci.config(config, where))

    def take(
        self, repository: str, blob: Descriptor, source: Source, source_repository: str, known: Known
    ) -> int:
        with self._turns(blob.digest):
            if self.blobs.has(blob):
                return 0
            self.blobs.put_blob(source.blob(source_repository, blob), blob.media_type, blob.digest)
            return blob.size

    def give(self, repository: str, blob: Descriptor, raw: bytes) -> int:
        if self.blobs.has(blob):
            return 0
        self.blobs.put_blob([raw], blob.media_type, blob.digest)
        return len(raw)

    def put(self, repository: str, tag: str, raw: bytes, media_type: str) -> str:
        name = f"{repository}:{tag}"
        made = oci.manifest(raw, f"{self.root}: {name}")
        if lacking := [one.digest for one in made.blobs if not one.urls and not self.blobs.has(one)]:
            raise BlobsMissingError(f"{self.root} lacks blobs of {name}: {', '.join(lacking)}")
        put = self.blobs.put_blob([raw], media_type)
        entry = Descriptor(media_type, put.digest, put.size, annotations={oci.REF_NAME: name})
        with self._lock:
            self._waiting[name] = entry
        with self._writing:  # whoever comes first writes for all that wait
            with self._lock:
                waiting = dict(self._waiting)
            if waiting.get(name) is entry:
                self._write(waiting)
        return put.digest

    def close(self) -> None:
        pass

    def _write(self, waiting: dict[str, Descriptor]) -> None:
        """Those that could not be written go on waiting: no other thread takes them for written."""
        with self.blobs.writable():
            if not (self.root / "oci-layout").exists():
                files.write(self.root / "oci-layout", LAYOUT)
            self.index.write(waiting)
        with self._lock:
            for name, entry in waiting.items():
                if self._waiting.get(name) is entry:
                    del self._waiting[name]


def _path(wanted: str) -> str:
    return f"blobs/sha256/{wanted.removeprefix('sha256:')}"
