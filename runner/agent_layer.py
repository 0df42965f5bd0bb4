"""The agent-server's layer in all its forms: packed for images, and to be mounted at run time.

In an image it is two layers: the folder `/slipworks-agent`, and on it a tiny one that is nothing but the
symlink at the path that clients start. The tiny one names no folder, so unpackers that merge layers leave a
base's own /usr/local/bin as it is; engines that keep layers apart (overlay) make up the folders above it.
"""

from __future__ import annotations

import hashlib
import struct
import tarfile
import zlib
from pathlib import Path
from typing import Literal

from msgspec import Struct

from containers import bootstrap
from containers.engine import Bind
from containers.mounts import mount_option
from definitions import layers
from image_cache import streams
from image_cache.bake import Added
from image_cache.ensure import ensure_artifact
from image_cache.oci import Artifact
from image_cache.store import Store
from kit import files, say
from kit.errors import InvalidFileError
from kit.nouns import LayerSpec, Platform, key_of
from runner import building, layer_mounts
from runner.cli import version

NAME = "agent-server"
CLIENT = "/usr/local/bin/openhands-agent-server"
"""What the OpenHands SDK starts."""
CLIENT_LABEL = "slipworks.agent.client-path"
"""Of a baked image that has it; its value is the path."""
LEVEL = 9  # of zstd: of this layer 1 % larger than 12, in half the time; 3 % smaller than 6
MTIME = 315532800  # 1980-01-01, as in the layer itself


class AgentLayer(Struct, frozen=True, kw_only=True):
    """The layer of one platform; its blobs lie in the store.

    gzip, zstd  the same tar, packed in two ways. tiny: the client path, in gzip, the same bytes everywhere.
    """

    key: str
    platform: Platform
    folder: str
    gzip: Artifact
    zstd: Artifact
    tiny: Artifact

    @property
    def entrypoint(self) -> tuple[str, ...]:
        """What a bake sets."""
        return start(self.folder)


class Forms(Struct, frozen=True, kw_only=True):
    """What the store has of the layer; None: not made yet."""

    gzip: Artifact | None
    zstd: Artifact | None
    tiny: Artifact | None


def forms(platform: Platform, store: Store) -> Forms:
    """Milliseconds; builds nothing."""
    gzip = building.layer_found(spec(), platform, store)
    zstd = store.artifact(_zstd_key(gzip)) if gzip else None
    return Forms(gzip=gzip, zstd=zstd, tiny=store.artifact(_tiny_key()))


def find(platform: Platform, store: Store) -> AgentLayer | None:
    """The layer where the store has it whole. Milliseconds; builds nothing."""
    have = forms(platform, store)
    if have.gzip and have.zstd and have.tiny:
        return _layer(platform, have.gzip, have.zstd, have.tiny)
    return None


def made(platform: Platform, store: Store) -> AgentLayer:
    """The layer; what is missing of it is made. Of all that ask at once one makes it, as `ensure` says."""
    gzip = building.layer_artifact(spec(), platform, store)
    zstd = ensure_artifact(store, _zstd_key(gzip), lambda: _zstd(gzip, store))
    tiny = ensure_artifact(store, _tiny_key(), lambda: _tiny(store))
    return _layer(platform, gzip, zstd, tiny)


def squashfs(platform: Platform, store: Store) -> Path:
    """The layer's files as a squashfs, made now if it is not there."""
    return layer_mounts.made(store, spec(), platform, squashed=True)


def unpacked(platform: Platform, store: Store) -> Path:
    """The layer's files as a folder, made now if it is not there."""
    return layer_mounts.made(store, spec(), platform, squashed=False)


def mount_argv(engine: str, path: Path) -> list[str]:
    """The words after `apptainer exec`, `podman run` or `docker run` that mount `path` at the layer's place.

    apptainer takes the squashfs; podman the folder, as an overlay volume: what a sandbox writes there is its
    own and goes with it; docker the folder, read-only. No sandbox can change what others see.
    """
    target, source = spec().folder, str(path.absolute())
    plain = not set(source) & set(",:\\\"'\n")
    if engine == "apptainer" and plain:
        return ["--bind", f"{source}:{target}:image-src=/"]
    if engine == "apptainer":  # --bind has no way to quote
        return ["--mount", mount_option(Bind(path, target, read_only=True, image=True), "ro")]
    if engine == "podman":
        if not plain:
            raise InvalidFileError(
                f"podman cannot be told to mount {source!r} as an overlay",
                "export SLIPWORKS_CACHE=/a/plain/path",
            )
        return ["--volume", f"{source}:{target}:O"]
    return ["--mount", mount_option(Bind(path, target, read_only=True), "readonly")]


def added(layer: AgentLayer, *, client_path: bool = True, wanted: Literal["gzip", "zstd"] = "gzip") -> Added:
    """What a bake puts on every base."""
    return Added(
        platform=layer.platform, gzip=layer.gzip, zstd=layer.zstd, wanted=wanted,
        tiny=layer.tiny if client_path else None, entrypoint=layer.entrypoint, version=version(),
        labels={CLIENT_LABEL: CLIENT} if client_path else {},
    )  # fmt: skip


def start(folder: str) -> tuple[str, ...]:
    """The words that reap orphans, and start the server, or else the command that they are given."""
    return f"{folder}/bin/tini", "--", f"{folder}/bin/start"


def spec() -> LayerSpec:
    """As this machine's distribution makes it."""
    return layers.load(NAME, bootstrap.host_distribution())


def _layer(platform: Platform, gzip: Artifact, zstd: Artifact, tiny: Artifact) -> AgentLayer:
    return AgentLayer(
        key=gzip.key, platform=platform, folder=spec().folder, gzip=gzip, zstd=zstd, tiny=tiny
    )  # fmt: skip


def _zstd_key(gzip: Artifact) -> str:
    return key_of({"the zstd form of": gzip.diff_id, "packing": streams.packing(LEVEL)})


def _zstd(gzip: Artifact, store: Store) -> Artifact:
    with say.step(f"packing the layer {NAME} by zstd"), gzip.path.open("rb") as file:
        plain = streams.unpacked(file, gzip.media_type, gzip.digest)
        return store.put_tar(_zstd_key(gzip), plain, name=gzip.name, level=LEVEL)


# The tiny layer


def client_path(target: str) -> bytes:
    """The tiny layer: a tar.gz of one symlink at CLIENT. Pure, and the same bytes on every machine: what
    packs is not asked, for the one block of deflate is a stored one (RFC 1951, section 3.2.4)."""
    link = tarfile.TarInfo(CLIENT.lstrip("/"))
    link.type, link.linkname, link.mode, link.mtime = tarfile.SYMTYPE, target, 0o777, MTIME
    tar = link.tobuf(tarfile.USTAR_FORMAT) + bytes(1024)
    stored = b"\x01" + struct.pack("<HH", len(tar), len(tar) ^ 0xFFFF) + tar
    head = b"\x1f\x8b\x08\x00" + bytes(4) + b"\x00\xff"  # no time, no name, no system
    return head + stored + struct.pack("<II", zlib.crc32(tar), len(tar))


def _tiny_raw() -> bytes:
    return client_path(f"{spec().folder}/bin/openhands-agent-server")


def _tiny_key() -> str:
    return key_of({"layer": "client path", "digest": hashlib.sha256(_tiny_raw()).hexdigest()})


def _tiny(store: Store) -> Artifact:
    with files.beside(store.root / "client-path.tar.gz") as file:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(_tiny_raw())
        return store.put_artifact(_tiny_key(), file, name=f"{NAME} client path")
