"""Writing a `docker load` archive: manifest.json, the config, and each layer's plain tar.

Docker before 25 reads no OCI layout; every engine reads this. The image's tag is `<name>:latest`.
"""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any, BinaryIO, cast

from image_cache import oci, streams
from image_cache.blobs import Blobs
from kit import files
from kit.errors import HashMismatchError


def write(blobs: Blobs, name: str, manifest: oci.Manifest, config: dict[str, Any], out: Path) -> None:
    """Writes the archive of an image called `name` to `out`, atomically, one layer after the other;
    HashMismatchError when one is not its diff_id."""
    ids = oci.diff_ids(config, name)
    paths = [f"{one.removeprefix('sha256:')}/layer.tar" for one in ids]
    config_name = manifest.config.digest.removeprefix("sha256:") + ".json"
    entry = {"Config": config_name, "RepoTags": [f"{name}:latest"], "Layers": paths}
    with files.beside(out) as temporary, files.space_named(out):
        with tarfile.open(temporary, "w", format=tarfile.GNU_FORMAT) as tar:
            _add(tar, config_name, blobs.read(manifest.config.digest))
            written: set[str] = set()
            for path, layer, diff_id in zip(paths, manifest.layers, ids, strict=True):
                if path not in written:  # an image may hold one layer twice
                    _add_layer(tar, path, blobs.blob(layer.digest), layer.media_type, diff_id)
                written.add(path)
            _add(tar, "manifest.json", oci.encode([entry]))
        files.settle(temporary, out)


def _add(tar: tarfile.TarFile, name: str, raw: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(raw)
    tar.addfile(member, io.BytesIO(raw))


def _add_layer(tar: tarfile.TarFile, name: str, blob: Path, media_type: str, diff_id: str) -> None:
    """Writes the header with an unknown size, the bytes, then the header again: no second copy on disk."""
    assert tar.fileobj is not None
    sink = cast(BinaryIO, tar.fileobj)
    member = tarfile.TarInfo(name)
    begin = sink.tell()
    sink.write(member.tobuf(tarfile.GNU_FORMAT))
    seen = streams.Hash()
    with blob.open("rb") as file:
        for piece in seen.through(streams.unpacked(file, media_type, str(blob))):
            sink.write(piece)
    if seen.digest != diff_id:
        raise HashMismatchError(f"{blob} is damaged: its tar hashes to {seen.digest}, expected {diff_id}")
    sink.write(b"\0" * (-seen.size % tarfile.BLOCKSIZE))
    end = sink.tell()
    member.size = seen.size
    sink.seek(begin)
    sink.write(member.tobuf(tarfile.GNU_FORMAT))
    sink.seek(end)
    tar.offset = end
