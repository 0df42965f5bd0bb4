"""Bases in a registry, layers to bake on them, and images pulled back byte by byte."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import tarfile
import urllib.request
from pathlib import Path
from typing import Any

from image_cache import oci
from image_cache.bake import DOCKER_GZIP, Added
from image_cache.oci import Artifact, Descriptor
from image_cache.places import Origin
from image_cache.references import Reference
from image_cache.registry import Registry
from kit.nouns import Platform, digest

AMD64 = Platform("amd64")
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
ACCEPT = ", ".join((oci.MANIFEST, oci.DOCKER_MANIFEST, oci.INDEX, oci.DOCKER_LIST))


def tar_of(name: str, size: int = 2000) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        member = tarfile.TarInfo(name)
        member.size = size
        tar.addfile(member, io.BytesIO(random.Random(name).randbytes(size)))
    return out.getvalue()


def packed(plain: bytes) -> bytes:
    return gzip.compress(plain, 1, mtime=0)


def artifact(folder: Path, name: str, size: int = 50_000) -> Artifact:
    plain = tar_of(name, size)
    raw = packed(plain)
    path = folder / name.replace("/", "-")
    path.write_bytes(raw)
    return Artifact(
        key=hashlib.sha256(name.encode()).hexdigest(), digest=digest(raw), diff_id=digest(plain),
        size=len(raw), media_type=oci.GZIP, path=path, name=name,
    )  # fmt: skip


def added(folder: Path, **more: Any) -> Added:
    """A layer and a tiny one on top of it, as the agent's are."""
    given = {
        "platform": AMD64, "gzip": artifact(folder, "slipworks-agent/big"),
        "tiny": artifact(folder, "usr/local/bin/tiny", 10),
        "entrypoint": ("/slipworks-agent/bin/start",), "env": {"LANG": "C.UTF-8"}, "version": "0.1",
    }  # fmt: skip
    return Added(**{**given, **more})


class Bases:
    """Puts bases of a few small layers into a registry."""

    def __init__(self, host: str, folder: Path) -> None:
        self.registry, self.folder = Registry(host), folder
        self.made: dict[Origin, list[str]] = {}

    def make(
        self,
        *names: str,
        docker: bool = False,
        repository: str = "bases/some",
        tag: str = "",
        size: int = 2000,
        arch: str = "amd64",
        **config: Any,
    ) -> Origin:
        """A base whose layers hold a file each; `config` is the inner one."""
        plain = [tar_of(name, size) for name in names]
        layers = [self._put(repository, packed(one), DOCKER_GZIP if docker else oci.GZIP) for one in plain]
        body = json.dumps(
            {
                "os": "linux", "architecture": arch, "config": config,
                "rootfs": {"type": "layers", "diff_ids": [digest(one) for one in plain]},
                "history": [{"created_by": name} for name in names],
            }
        ).encode()  # fmt: skip
        described = self._put(repository, body, DOCKER_CONFIG if docker else oci.CONFIG)
        kind = oci.DOCKER_MANIFEST if docker else oci.MANIFEST
        raw = oci.encode(oci.Manifest(described, tuple(layers), media_type=kind))
        at = Reference(self.registry.host, repository, tag or digest(raw)[7:19])
        self.registry.put_manifest(at, raw, kind)
        origin = Origin.parse(f"{at}")
        self.made[origin] = [digest(one) for one in plain]
        return origin

    def tars(self, origin: Origin) -> list[str]:
        return self.made[origin]

    def _put(self, repository: str, raw: bytes, kind: str) -> Descriptor:
        blob = Descriptor(kind, digest(raw), len(raw))
        self.registry.put_blob(repository, blob, lambda: iter([raw]))
        return blob


def fetched(host: str, path: str) -> bytes:
    request = urllib.request.Request(f"http://{host}/v2/{path}", headers={"Accept": ACCEPT})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return bytes(answer.read())


def pulled(host: str, repository: str, tag: str) -> tuple[oci.Manifest, dict[str, Any], list[str]]:
    """An image as another client gets it, each blob compared with its digest; and the digests of its tars."""
    manifest = oci.manifest(fetched(host, f"{repository}/manifests/{tag}"), "pulled")
    blobs = {one.digest: fetched(host, f"{repository}/blobs/{one.digest}") for one in manifest.blobs}
    for one in manifest.blobs:
        assert digest(blobs[one.digest]) == one.digest and len(blobs[one.digest]) == one.size
    tars = [digest(gzip.decompress(blobs[one.digest])) for one in manifest.layers]
    return manifest, json.loads(blobs[manifest.config.digest]), tars
