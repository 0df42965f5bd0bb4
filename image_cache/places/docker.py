"""What `docker save` writes, as the place that bases come from."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import msgspec

from image_cache import oci, streams
from image_cache.oci import Descriptor
from image_cache.places import Fetched, Seen
from image_cache.places.files import Files, checked
from image_cache.places.origin import Origin
from kit.errors import InvalidFileError, NotFoundError, UnsupportedError
from kit.nouns import Platform, digest

DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_TAR = "application/vnd.docker.image.rootfs.diff.tar"


class DockerArchiveSource:
    """Bases in what `docker save` writes: `docker-archive:FILE[:NAME]`.

    Such an archive has no manifest, so one is made: of Docker's family, with the layers as they lie there,
    which is mostly unpacked.
    """

    def __init__(self, files: Files) -> None:
        self.files = files
        self.name = files.name
        self._made: dict[str, tuple[Fetched, dict[str, str]]] = {}  # by config
        self._lock = threading.Lock()

    def look(self, origin: Origin) -> Seen | None:
        found = self._image(origin)
        return Seen(found.digest, oci.DOCKER_MANIFEST) if found else None

    def image(self, origin: Origin, platform: Platform) -> Fetched:
        found = self._image(origin)
        if found is None:
            raise NotFoundError(f"{origin} does not exist", f"tar xOf {self.name} manifest.json")
        oci.check_platform(oci.config(found.config, f"{origin}"), platform, f"{origin}")
        return found

    def blob(self, repository: str, blob: Descriptor) -> Iterator[bytes]:
        with self._lock:
            paths = {name: path for _, there in self._made.values() for name, path in there.items()}
        if blob.digest not in paths:
            raise NotFoundError(f"{self.name} has no {blob.digest}")
        return checked(self.files.pieces(paths[blob.digest]), blob, self.name)

    def _image(self, origin: Origin) -> Fetched | None:
        images = msgspec.json.decode(self.files.read("manifest.json"), type=list[dict[str, Any]])
        named = [one for one in images if origin.tag in (None, *(one.get("RepoTags") or []))]
        if not origin.tag and len(named) > 1:
            names = ", ".join(str(tag) for one in named for tag in one.get("RepoTags") or [])
            raise InvalidFileError(f"{origin} holds several images: say which of {names}")
        with self._lock:
            for one in named:
                if one["Config"] not in self._made:
                    self._made[one["Config"]] = self._described(one, f"{origin}")
                found = self._made[one["Config"]][0]
                if origin.digest in (None, found.digest):
                    return found
        return None

    def _described(self, image: dict[str, Any], where: str) -> tuple[Fetched, dict[str, str]]:
        config = self.files.read(image["Config"])
        ids = oci.diff_ids(oci.config(config, where), where)
        if len(ids) != len(image["Layers"]):
            raise InvalidFileError(f"{where} has {len(image['Layers'])} layers, its config names {len(ids)}")
        layers = [self._layer(path, id_) for path, id_ in zip(image["Layers"], ids, strict=True)]
        table = {
            "schemaVersion": 2, "mediaType": oci.DOCKER_MANIFEST, "layers": layers,
            "config": Descriptor(DOCKER_CONFIG, digest(config), len(config)),
        }  # fmt: skip
        raw = oci.encode(table)
        paths = {one.digest: path for one, path in zip(layers, image["Layers"], strict=True)}
        return Fetched(raw, config, digest(raw)), paths

    def _layer(self, path: str, diff_id: str) -> Descriptor:
        """A plain tar's digest is its diff_id, and is checked when it is read; a packed one is hashed now."""
        kind = streams.compression(next(self.files.pieces(path), b"")[:4])
        if kind == oci.ZSTD:
            raise UnsupportedError(f"{self.name} has a zstd layer, which Docker's manifests cannot name")
        if kind == oci.TAR:
            return Descriptor(DOCKER_TAR, diff_id, self.files.size(path))
        seen = streams.Hash()
        for _ in seen.through(self.files.pieces(path)):
            pass
        return Descriptor(DOCKER_TAR + ".gzip", seen.digest, seen.size)
