"""The store: one OCI image layout, blobs by digest, and a record for every key.

    <root>/oci-layout, index.json, blobs/sha256/…   readable as oci:<root>:<name>
    <root>/refs/<key>.<format>.json                 what a key came out as (records.py)
    <root>/artifacts/<key>.json                     layers that images are made of (artifacts.py)
    <root>/notes/<kind>/<hex>                       what was found out about a digest (notes.py)
    <root>/sif/<name>.sif
    <root>/pins/<key>.<format>                      images that `gc` keeps whatever their age
    <root>/claims/…                                 who builds what now (ensure.py)

Any number of processes and hosts may read and write it at once, and any may be killed at any moment: a file
appears under its name only whole and synced (temporary name in the same folder, fsync, rename), blobs never
change, a record is written after all that it names. What a killed process leaves is temporary files, which a
later put or `gc` clears away (garbage.py says what goes, and why that is safe beside builds). Nothing here
relies on flock.
"""

from __future__ import annotations

import contextlib
import errno
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from image_cache import docker_archive, garbage, oci, stamps, streams
from image_cache.blobs import Look
from image_cache.catalogue import ASIDE, Catalogue
from image_cache.oci import Artifact, Descriptor
from image_cache.records import Record
from kit import files
from kit.errors import HashMismatchError, InvalidFileError, SlipworksError
from kit.nouns import Format, Image, Platform, digest_file

KEEP_DAYS = 14.0  # since its last use, an image that is not pinned
STALE = 24 * 3600  # seconds without a write after which a temporary file has no living writer


class Store(Catalogue):
    """A store at `root`; the folder is made by the first put."""

    def put_note(self, digest: str, kind: str, raw: bytes) -> None:
        """Keeps a fact that was derived from what `digest` names, and can be again. Atomic; the last wins."""
        with self.writable():
            self.notes.put(digest, kind, raw)

    def put_on(
        self,
        image: Image,
        artifacts: Sequence[Artifact],
        *,
        key: str,
        name: str,
        labels: Mapping[str, str] | None = None,
        env_path: str | None = None,
        env: Mapping[str, str] | None = None,
        entrypoint: Sequence[str] | None = None,
        cmd: Sequence[str] | None = None,
        working_dir: str | None = None,
    ) -> Image:
        """An image of this store with artifacts of this store on top, and `env_path` last on its PATH.

        The rest of what it is told is as `oci.appended` says. No layer is read or written: a new config and
        manifest, in milliseconds.
        """
        manifest, config = self.opened(image)
        config = oci.appended(
            config, artifacts, labels=labels, path=env_path, env=env, entrypoint=entrypoint, cmd=cmd,
            working_dir=working_dir,
        )  # fmt: skip
        layers = [*manifest.layers, *(one.descriptor for one in artifacts)]
        return self.put_image(config, layers, key=key, name=name, platform=image.platform)

    def put_root(
        self, tar: Path, *, key: str, name: str, platform: Platform, labels: Mapping[str, str] | None = None
    ) -> Image:
        """A one-layer image from the tar of a root file system. Equal tars give equal digests."""
        layer, diff_id = self.put_layer_file(tar)
        config = oci.appended(oci.plain_config(platform, diff_id, "root file system"), labels=labels)
        return self.put_image(config, [layer], key=key, name=name, platform=platform)

    def put_image(
        self,
        config: Mapping[str, Any],
        layers: Sequence[Descriptor],
        *,
        key: str,
        name: str,
        platform: Platform,
    ) -> Image:
        """Makes an image of a config and of layers whose blobs are already there."""
        blob = self.put_blob([oci.encode(config)], oci.CONFIG)
        manifest = oci.encode(oci.Manifest(blob, tuple(layers)))
        return self.put_manifest(manifest, key=key, name=name, platform=platform)

    def put_manifest(self, raw: bytes, *, key: str, name: str, platform: Platform) -> Image:
        """Makes an image of an OCI manifest, byte by byte as given, whose blobs are already there."""
        manifest = oci.manifest(raw, name)
        config = oci.config(self.read(manifest.config.digest), name)
        oci.check_platform(config, platform, name)
        if missing := [blob.digest for blob in manifest.blobs if not self.keep(blob)]:
            raise InvalidFileError(f"{name} cannot be put: {self.root} lacks the blob {missing[0]}")
        with self.writable():
            self.records.check_free(key, oci.check_name(name), "oci")
            blob = self.put_blob([raw], oci.MANIFEST)
            return self._put_record("oci", key, name, platform, blob.digest, blob.size, oci.labels(config))

    def put_sif(
        self, path: Path, *, key: str, name: str, platform: Platform, labels: Mapping[str, str] | None = None,
        digest: str | None = None,
    ) -> Image:  # fmt: skip
        """Takes a finished SIF over: renamed where it lies on the store's file system, else copied.

        digest: of the file, where it is known; it is not hashed again then.
        """
        digest, final = digest or digest_file(path), self.sif_path(oci.check_name(name))
        with self.writable():
            self.records.check_free(key, name, "sif")
            self.records.drop(key, "sif")  # first: the old record must never stand for the new file
            with files.beside(final) as temporary, files.space_named(final):
                _move(path, temporary)
                temporary.chmod(0o644)
                stamps.wanted(temporary)  # what was renamed may be old
                size = temporary.stat().st_size
                files.settle(temporary, final)
            return self._put_record("sif", key, name, platform, digest, size, dict(labels or {}))

    def put_artifact(
        self, key: str, file: Path, *, diff_id: str | None = None, name: str = "", look: Look | None = None
    ) -> Artifact:
        """Takes in a layer (tar, tar.gz or tar.zst). A given `diff_id` must be the one that is found."""
        blob, found = self.put_layer_file(file, look)
        if diff_id not in (None, found):
            raise HashMismatchError(f"{file} holds a tar that hashes to {found}: expected {diff_id}")
        return self.artifacts.put(key, blob, found, name)

    def put_tar(
        self, key: str, pieces: Iterable[bytes], *, name: str = "", level: int = streams.LEVEL
    ) -> Artifact:
        """A layer from the pieces of its plain tar, however they are cut: packed and hashed while they come,
        in one pass and in little memory. Equal tars give equal blobs at one level. What `pieces` raises
        passes through, and nothing was put then.
        """
        blob, diff_id = self.put_plain(streams.tar_only(pieces, f"the layer {name or key[:12]}"), level)
        return self.artifacts.put(key, blob, diff_id, name)

    def write_docker_archive(self, image: Image, out: Path) -> None:
        """A `docker load` archive for engines that read no OCI layout (Docker before 25); atomic."""
        docker_archive.write(self, image.name, *self.opened(image), out)

    def _put_record(
        self, format: Format, key: str, name: str, platform: Platform, digest: str, size: int,
        labels: dict[str, str],
    ) -> Image:  # fmt: skip
        record = Record(
            key=key,
            name=name,
            format=format,
            platform=platform,
            digest=digest,
            size=size,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            labels=labels,
        )
        self.records.put(record)
        self._sweep()
        return self._image(record)

    def space_hint(self) -> str | None:
        """The command that frees space, and how much it would free; None where it would nothing."""
        try:
            freed = garbage.plan(self, KEEP_DAYS).freed
        except (OSError, SlipworksError):
            return None
        return f"runner image gc  # would free {freed / 1e6:,.0f} MB" if freed else None

    def _sweep(self) -> None:
        """Removes what killed processes left. A living writer's file is written to all the time."""
        for path in (path for folder in self.folders for path in folder.glob(".*.tmp")):
            with contextlib.suppress(OSError):
                if not path.name.startswith(ASIDE) and time.time() - path.stat().st_mtime > STALE:
                    path.unlink()


def _move(path: Path, to: Path) -> None:
    try:
        path.rename(to)
    except OSError as other:
        if other.errno != errno.EXDEV:
            raise
        shutil.copyfile(path, to)
        path.unlink()
