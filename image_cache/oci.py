"""Images as nouns: descriptors, manifests, configs. Pure: no file and no network is touched here.

What is written is always OCI (image-spec 1.0), whatever was read: the bytes of layers are the same in
Docker's family of media types, so only the names change, and one manifest never mixes the families.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import Struct, field

from image_cache.unfit import ForeignLayerError, SchemaOneError, TooManyLayersError, WrongPlatformError
from kit.errors import InvalidFileError
from kit.nouns import Platform, check_digest

T = TypeVar("T")

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
TAR = "application/vnd.oci.image.layer.v1.tar"
GZIP = TAR + "+gzip"
ZSTD = TAR + "+zstd"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
REF_NAME = "org.opencontainers.image.ref.name"
NO_TIME = "1970-01-01T00:00:00Z"  # of what is made here: equal input, equal digest
MOST_LAYERS = 127  # what overlay file systems and engines take

# What is read -> what is written. Foreign layers are not here: their bytes are not in the archive.
LAYER_TYPES = {
    TAR: TAR,
    GZIP: GZIP,
    ZSTD: ZSTD,
    "application/vnd.docker.image.rootfs.diff.tar": TAR,
    "application/vnd.docker.image.rootfs.diff.tar.gzip": GZIP,
    "application/vnd.docker.image.rootfs.diff.tar.zstd": ZSTD,
}


class Descriptor(Struct, frozen=True, rename="camel", omit_defaults=True):
    """What a blob is, its digest and its size in bytes."""

    media_type: str
    digest: str
    size: int
    platform: dict[str, Any] | None = None
    annotations: dict[str, str] = {}
    urls: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_digest(self.digest, "a descriptor")


class Manifest(Struct, frozen=True, rename="camel", omit_defaults=True):
    """One image of one platform."""

    config: Descriptor
    layers: tuple[Descriptor, ...]
    schema_version: int = field(default_factory=lambda: 2)  # a factory, so that it is never left out
    media_type: str = field(default_factory=lambda: MANIFEST)
    annotations: dict[str, str] = {}

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        return (self.config, *self.layers)


class Index(Struct, frozen=True, rename="camel", omit_defaults=True):
    """A list of manifests: of platforms, or of the names in a layout."""

    manifests: tuple[Descriptor, ...]
    schema_version: int = field(default_factory=lambda: 2)
    media_type: str = field(default_factory=lambda: INDEX)


class Artifact(Struct, frozen=True, kw_only=True):
    """A self-contained layer that lies in the store: what an image's manifest needs to hold it.

    digest is of the blob at `path` as it lies there (compressed), diff_id of the tar inside it. `name` is
    what people read in an image's history: "stack cuda".
    """

    key: str
    digest: str
    diff_id: str
    size: int
    media_type: str
    path: Path
    name: str = ""

    @property
    def descriptor(self) -> Descriptor:
        return Descriptor(self.media_type, self.digest, self.size)


def encode(thing: Any) -> bytes:
    """JSON with a fixed order of keys: equal things, equal bytes, equal digests."""
    return msgspec.json.encode(thing, order="deterministic")


def manifest(raw: bytes, where: str) -> Manifest:
    """Reads a manifest of either family; layers and config keep the media types that were read."""
    kind = kind_of(raw, where)
    if kind not in (MANIFEST, DOCKER_MANIFEST):
        raise InvalidFileError(f"{where} is not an image manifest: found media type {kind!r}")
    return _decoded(raw, Manifest, where)


def index(raw: bytes, where: str) -> Index:
    """Reads an index or Docker's manifest list."""
    return _decoded(raw, Index, where)


def config(raw: bytes, where: str) -> dict[str, Any]:
    """Reads a config; keys that are not known here are kept."""
    return _decoded(raw, dict[str, Any], where)


def kind_of(raw: bytes, where: str) -> str:
    """The media type that a manifest or index has. Early OCI writers left the field out; shape decides then.
    Docker's schema 1, without layers by digest that could be used, is refused by name."""
    table = _decoded(raw, dict[str, Any], where)
    if (schema := table.get("schemaVersion")) == 1:
        raise SchemaOneError(
            f"{where} has manifest schema 1, served no more by most; expected schema 2 or OCI",
            "push the image again with a current docker or podman",
        )
    if schema != 2:
        raise InvalidFileError(f"{where} is no manifest: expected schemaVersion 2, found {str(schema)[:40]}")
    return str(table.get("mediaType") or (INDEX if "manifests" in table else MANIFEST))


def _decoded(raw: bytes, kind: type[T], where: str) -> T:
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as bad:
        raise InvalidFileError(f"{where} is not valid: {bad}") from bad


def layer_type(media_type: str, where: str) -> str:
    """The OCI name of a layer's media type."""
    if media_type not in LAYER_TYPES:
        raise ForeignLayerError(
            f"{where} has a layer of type {media_type!r}: expected tar, tar+gzip or tar+zstd"
        )
    return LAYER_TYPES[media_type]


def choose(manifests: Sequence[Descriptor], platform: Platform, where: str) -> list[Descriptor]:
    """The entries for `platform`, or those that state none. What exists is named when there is neither.

    Never another platform as a fallback. Entries of BuildKit's attestations are not images.
    """
    images = [one for one in manifests if "vnd.docker.reference.type" not in one.annotations]
    mine = [one for one in images if one.platform and _is(one.platform, platform)]
    unstated = [one for one in images if not one.platform]
    if not mine and not unstated:
        there = ", ".join(sorted({spelled(one.platform or {}) for one in images})) or "nothing"
        raise WrongPlatformError(f"{where} has no image for {platform}: it has {there}")
    return mine or unstated


def _is(stated: Mapping[str, Any], platform: Platform) -> bool:
    return stated.get("os") == platform.os and stated.get("architecture") == platform.arch


def spelled(stated: Mapping[str, Any]) -> str:
    """`linux/arm64` of an index's entry or of a config."""
    return f"{stated.get('os') or 'unknown'}/{stated.get('architecture') or 'unknown'}"


def check_platform(config: Mapping[str, Any], platform: Platform, where: str) -> None:
    """The config is the last word on what an image is for."""
    if not _is(config, platform):
        raise WrongPlatformError(f"{where} is an image for {spelled(config)}: expected {platform}")


def diff_ids(config: Mapping[str, Any], where: str) -> list[str]:
    """The digests of the layers' uncompressed tars, in the order of the layers."""
    found = (config.get("rootfs") or {}).get("diff_ids")
    if not isinstance(found, list):
        raise InvalidFileError(f"{where} has a config without rootfs.diff_ids")
    return [check_digest(str(one), where) for one in found]


def labels(config: Mapping[str, Any]) -> dict[str, str]:
    """The labels that a config sets."""
    return dict((config.get("config") or {}).get("Labels") or {})


def plain_config(platform: Platform, diff_id: str, created_by: str) -> dict[str, Any]:
    """The config of an image that is one root file system and nothing else."""
    return {
        "architecture": platform.arch,
        "os": platform.os,
        "created": NO_TIME,
        "config": {"Env": [f"PATH={PLAIN_PATH}"]},
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        "history": [{"created": NO_TIME, "created_by": created_by}],
    }


def appended(
    base: Mapping[str, Any],
    artifacts: Sequence[Artifact] = (),
    *,
    labels: Mapping[str, str] | None = None,
    path: str | None = None,
    env: Mapping[str, str] | None = None,
    entrypoint: Sequence[str] | None = None,
    cmd: Sequence[str] | None = None,
    working_dir: str | None = None,
) -> dict[str, Any]:
    """A config with artifacts on top, labels and `env` set, and `path` at the end of PATH. Pure, and
    idempotent in all but artifacts.

    Variables that the base sets too keep their place with the new value; the base's own PATH entries stay
    first, so that nothing of it is shadowed. None: as the base has it; an empty `cmd` takes the base's away.
    An entry point takes it away too, as in a Containerfile: it was meant for another program.
    """
    ids = [*diff_ids(base, "the image"), *(one.diff_id for one in artifacts)]
    if len(ids) > MOST_LAYERS:
        raise TooManyLayersError(
            f"the image would have {len(ids)} layers: engines take {MOST_LAYERS} at most"
        )
    inner = dict(base.get("config") or {})
    if labels:
        inner["Labels"] = {**(inner.get("Labels") or {}), **labels}
    if env:
        inner["Env"] = _with_env(inner.get("Env") or [], env)
    if path:
        inner["Env"] = _with_path(inner.get("Env") or [], path)
    if entrypoint is not None:
        inner["Entrypoint"], cmd = [*entrypoint], cmd or []
    if cmd is not None:
        inner["Cmd"] = [*cmd]
    if working_dir is not None:
        inner["WorkingDir"] = working_dir
    history = _whole_history(base, len(ids) - len(artifacts))
    history += [{"created": NO_TIME, "created_by": _told(one)} for one in artifacts]
    rootfs = {**base["rootfs"], "diff_ids": ids}
    return {**base, "config": inner, "rootfs": rootfs, "history": history}


def _told(artifact: Artifact) -> str:
    return f"slipworks {artifact.name or 'layer'} {artifact.key[:12]}"


def _with_env(env: Sequence[str], values: Mapping[str, str]) -> list[str]:
    rest = dict(values)
    kept = [_set(entry, rest) for entry in env]
    return kept + [f"{name}={value}" for name, value in sorted(rest.items())]


def _set(entry: str, rest: dict[str, str]) -> str:
    name = entry.partition("=")[0]
    return f"{name}={rest.pop(name)}" if name in rest else entry


PLAIN_PATH = (
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # engines' own when none is stated
)


def _with_path(env: Sequence[str], folder: str) -> list[str]:
    stated = [*env] if any(entry.startswith("PATH=") for entry in env) else [*env, f"PATH={PLAIN_PATH}"]
    return [_added(entry, folder) if entry.startswith("PATH=") else entry for entry in stated]


def _added(entry: str, folder: str) -> str:
    return entry if folder in entry[5:].split(":") else f"{entry}:{folder}"


def _whole_history(base: Mapping[str, Any], layers: int) -> list[dict[str, Any]]:
    """History's non-empty entries are counted against the layers by readers; a base may have none at all."""
    given = [dict(entry) for entry in base.get("history") or []]
    if sum(not entry.get("empty_layer") for entry in given) == layers:
        return given
    return [{"created_by": "(the base states no history)"} for _ in range(layers)]


_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


def check_name(name: str) -> str:
    """A name that can be a tag in every registry and layout."""
    if not _NAME.fullmatch(name):
        raise InvalidFileError(
            f"not a name for an image: found {name!r}, expected up to 128 of letters, digits, '_', '.', '-'",
            "such as base-1.2",
        )
    return name
