"""Images as registries serve them, made in memory: a manifest of some family, a config and layers."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import urllib.request
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import zstandard
from msgspec import Struct

from image_cache import oci
from image_cache.oci import Descriptor
from kit.nouns import Platform, digest
from tests.live.parts_roots import NATIVE

DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
MTIME, CREATED = 1_700_000_000, "2023-11-14T22:13:20Z"
SPEECH = "FROM_BASE=it's here"


class Entry(Struct, frozen=True):
    """One member of a layer. raw: of a file; link: of a symlink; neither: a folder."""

    name: str
    raw: bytes | None = None
    link: str | None = None
    mode: int = 0o755
    owner: tuple[int, int] = (0, 0)


class Served(Struct, frozen=True, kw_only=True):
    """An image as a registry serves it. blobs: config and layers by digest."""

    platform: Platform
    media_type: str
    manifest: bytes
    config: bytes
    blobs: dict[str, bytes]

    @property
    def digest(self) -> str:
        return digest(self.manifest)

    @property
    def descriptor(self) -> Descriptor:
        stated = {"os": self.platform.os, "architecture": self.platform.arch}
        return Descriptor(self.media_type, self.digest, len(self.manifest), platform=stated)


class Bottom(Struct, frozen=True, kw_only=True):
    """A base. command, in sh, says what its own programs must print, with any layer or none: `says`."""

    name: str
    image: Served
    others: tuple[Served, ...] = ()
    index: bytes | None = None
    command: str = "echo $FROM_BASE"
    says: str = "it's here"

    @property
    def digest(self) -> str:
        """What its tag stands for: of the index where there is one."""
        return digest(self.index) if self.index else self.image.digest

    def layout(self, folder: Path, tag: str = "base") -> Path:
        """Writes it as an OCI image layout; returns `folder`."""
        held = {**self.image.blobs, self.image.digest: self.image.manifest}
        top = self.image.descriptor
        for other in self.others:
            held |= {**other.blobs, other.digest: other.manifest}
        if self.index:
            held[self.digest] = self.index
            top = Descriptor(oci.INDEX, self.digest, len(self.index))
        for name, raw in held.items():
            path = folder / "blobs/sha256" / name.removeprefix("sha256:")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(raw)
        named = Descriptor(top.media_type, top.digest, top.size, annotations={oci.REF_NAME: tag})
        (folder / "index.json").write_bytes(oci.encode(oci.Index((named,))))
        (folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
        return folder


def tar(entries: Iterable[Entry]) -> bytes:
    """A layer's plain tar: equal entries, equal bytes."""
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w", format=tarfile.PAX_FORMAT) as out:
        for each in entries:
            info = tarfile.TarInfo(each.name)
            info.mtime, info.mode, (info.uid, info.gid) = MTIME, each.mode, each.owner
            if each.raw is not None:
                info.size = len(each.raw)
            elif each.link is not None:
                info.type, info.linkname, info.mode = tarfile.SYMTYPE, each.link, 0o777
            else:
                info.type = tarfile.DIRTYPE
            out.addfile(info, io.BytesIO(each.raw or b""))
    return held.getvalue()


def served(
    *layers: bytes | Iterable[Entry],
    docker: bool = True,
    zstd: bool = False,
    platform: Platform = NATIVE,
    config: Mapping[str, Any] | None = None,
) -> Served:
    """An image of plain tars or of entries, lowest first. config: fields that go over the inner one's own."""
    plain = [each if isinstance(each, bytes) else tar(each) for each in layers]
    packed = [zstandard.ZstdCompressor(3).compress(each) if zstd else _gzip(each) for each in plain]
    layer_type = DOCKER_LAYER if docker else oci.ZSTD if zstd else oci.GZIP
    inner = {"Env": [f"PATH={oci.PLAIN_PATH}", SPEECH], "Cmd": ["sh"], **(config or {})}
    whole = {
        "architecture": platform.arch, "os": platform.os, "created": CREATED,
        "author": "somebody else", "config": inner,
        "rootfs": {"type": "layers", "diff_ids": [digest(each) for each in plain]},
        "history": [{"created": CREATED, "created_by": f"layer {n}"} for n in range(len(plain))]
        + [{"created": CREATED, "created_by": "CMD sh", "empty_layer": True}],
    }  # fmt: skip
    raw = json.dumps(whole, indent=1).encode()
    described = Descriptor(DOCKER_CONFIG if docker else oci.CONFIG, digest(raw), len(raw))
    manifest = {
        "schemaVersion": 2,
        "mediaType": oci.DOCKER_MANIFEST if docker else oci.MANIFEST,
        "config": _plain(described),
        "layers": [_plain(Descriptor(layer_type, digest(each), len(each))) for each in packed],
    }
    blobs = {digest(each): each for each in [raw, *packed]}
    return Served(platform=platform, media_type=str(manifest["mediaType"]), config=raw, blobs=blobs,
                  manifest=json.dumps(manifest, indent=3).encode())  # fmt: skip


def _plain(blob: Descriptor) -> dict[str, Any]:
    return {"mediaType": blob.media_type, "size": blob.size, "digest": blob.digest}


def _gzip(raw: bytes) -> bytes:
    return gzip.compress(raw, 1, mtime=0)


def put(bottom: Bottom, host: str, repository: str, tag: str = "base") -> str:
    """Uploads a base, and returns its reference by tag."""
    for image in (bottom.image, *bottom.others):
        for name, raw in image.blobs.items():
            _upload(host, repository, name, raw)
        _manifest(host, repository, image.digest if bottom.index else tag, image.manifest, image.media_type)
    if bottom.index:
        _manifest(host, repository, tag, bottom.index, oci.INDEX)
    return f"{host}/{repository}:{tag}"


def _upload(host: str, repository: str, name: str, raw: bytes) -> None:
    begun = _asked("POST", f"http://{host}/v2/{repository}/blobs/uploads/")
    place = begun.headers["Location"]
    _asked("PUT", f"{place}{'&' if '?' in place else '?'}digest={name}", raw, "application/octet-stream")


def _manifest(host: str, repository: str, name: str, raw: bytes, media_type: str) -> None:
    _asked("PUT", f"http://{host}/v2/{repository}/manifests/{name}", raw, media_type)


def _asked(method: str, url: str, raw: bytes | None = None, kind: str = "") -> Any:
    asked = urllib.request.Request(url, raw, {"Content-Type": kind} if kind else {}, method=method)
    with urllib.request.urlopen(asked, timeout=60) as answer:
        answer.read()
        return answer
