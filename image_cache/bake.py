"""Baking: a base's manifest and config with our layers on top. No layer is read, no container is run.

`planned` is pure: equal input, equal bytes. `do` brings what came out to where it belongs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct, structs

from image_cache import oci
from image_cache.answers import BlobsMissingError
from image_cache.oci import Artifact, Descriptor
from image_cache.places import Known, Origin, Source, Target, blame
from image_cache.places.files import Shelf
from image_cache.unfit import ForeignLayerError, TagTakenError
from kit.errors import InvalidFileError
from kit.nouns import Platform, digest, key_of

DOCKER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"
BASE_NAME, BASE_DIGEST = "org.opencontainers.image.base.name", "org.opencontainers.image.base.digest"
ADDRESS, LAYER, KEY = "slipworks.agent.address", "slipworks.agent.layer", "slipworks.agent.key"
VERSION = "slipworks.version"
BASE_ENTRYPOINT, BASE_CMD = "slipworks.base.entrypoint", "slipworks.base.cmd"
ZSTDS = (oci.ZSTD, "application/vnd.docker.image.rootfs.diff.tar.zstd")
SHORT = 12  # hex digits of a digest in a tag


class Added(Struct, frozen=True, kw_only=True):
    """What a bake puts on a base.

    gzip, zstd  the same layer, packed in two ways (one diff_id). Docker's manifests take gzip only.
    tiny        a second layer on top of it, or None.
    entrypoint  None: as the base has it. env: variables set.
    wanted      the form for OCI bases without zstd layers of their own; those with take zstd.
    """

    platform: Platform
    gzip: Artifact
    zstd: Artifact | None = None
    tiny: Artifact | None = None
    entrypoint: tuple[str, ...] | None = None
    env: dict[str, str] = {}
    labels: dict[str, str] = {}
    version: str = ""
    wanted: Literal["gzip", "zstd"] = "gzip"

    def __post_init__(self) -> None:
        if self.zstd and self.zstd.diff_id != self.gzip.diff_id:
            raise InvalidFileError("the gzip and the zstd form of the layer are not of the same tar")
        for layer in (self.gzip, self.tiny):
            if layer and layer.media_type != oci.GZIP:
                raise InvalidFileError(f"{layer.name or layer.key} is {layer.media_type}: expected gzip")

    @property
    def address(self) -> str:
        """64 hex digits over all that decides what an image becomes, the base aside. The kit's version and
        labels are told in an image and do not make it another."""
        return key_of(
            {
                "layer": self.gzip.digest,
                "zstd": self.zstd.digest if self.zstd else "",
                "wanted": self.wanted if self.zstd else "gzip",
                "tiny": self.tiny.digest if self.tiny else "",
                "entrypoint": oci.encode(self.entrypoint).decode(),
                "env": oci.encode(self.env).decode(),
            }
        )


class Baked(Struct, frozen=True, kw_only=True):
    """An image to come: all that has to be brought to where it belongs.

    blobs  the base's, each digest once; ours: the layers that lie in the store here.
    labels of its config, by which an image that is there already is known as the same pair.
    """

    manifest: bytes
    media_type: str
    config: bytes
    config_descriptor: Descriptor
    blobs: tuple[Descriptor, ...]
    ours: tuple[Artifact, ...]
    tag: str
    labels: dict[str, str]

    @property
    def digest(self) -> str:
        return digest(self.manifest)


def tag(base_digest: str, added: Added) -> str:
    """Made of the base's digest (of its manifest for the platform) and the bake's address."""
    return f"{base_digest.removeprefix('sha256:')[:SHORT]}-{added.address[:SHORT]}"


def planned(raw_manifest: bytes, raw_config: bytes, base_name: str, base_digest: str, added: Added) -> Baked:
    """The image that a base becomes, in the base's own family of media types.

    What the base says and is not known here is kept. SchemaOneError, WrongPlatformError, TooManyLayersError,
    ForeignLayerError; InvalidFileError for a base that contradicts itself.
    """
    base = oci.manifest(raw_manifest, base_name)
    config = oci.config(raw_config, base_name)
    _check(base, config, base_name, added.platform)
    table = msgspec.json.decode(raw_manifest, type=dict[str, Any])
    docker = base.media_type == oci.DOCKER_MANIFEST
    ours = _layers(base, docker, added)
    labels = _labels(config, base_name, base_digest, added, ours[0])
    made = oci.appended(config, ours, labels=labels, env=added.env, entrypoint=added.entrypoint)
    body = oci.encode(made)
    described = Descriptor(base.config.media_type, digest(body), len(body))
    kind = oci.DOCKER_MANIFEST if docker else oci.MANIFEST
    table |= {
        "mediaType": kind,
        "config": described,
        "layers": [*table["layers"], *(_described(one, docker) for one in ours)],
    }
    table.pop("subject", None)  # that was said of the base
    if not docker:
        said = {BASE_NAME: base_name, BASE_DIGEST: base_digest}
        table["annotations"] = {**(table.get("annotations") or {}), **said}
    return Baked(
        manifest=oci.encode(table), media_type=kind, config=body, config_descriptor=described,
        blobs=_to_take(base.layers), ours=ours, tag=tag(base_digest, added), labels=labels,
    )  # fmt: skip


def copied(raw_manifest: bytes, raw_config: bytes, base_name: str, tag: str) -> Baked:
    """A base as it is, byte by byte, to be mirrored."""
    base = oci.manifest(raw_manifest, base_name)
    config = oci.config(raw_config, base_name)
    return Baked(
        manifest=raw_manifest, media_type=base.media_type, config=raw_config, config_descriptor=base.config,
        blobs=_to_take(base.layers), ours=(), tag=tag, labels=oci.labels(config),
    )  # fmt: skip


def as_oci(baked: Baked) -> Baked:
    """The same image in OCI's family of media types: engines find nothing else in a layout."""
    if baked.media_type == oci.MANIFEST:
        return baked
    table = msgspec.json.decode(baked.manifest, type=dict[str, Any])
    layers = [{**one, "mediaType": oci.LAYER_TYPES.get(one["mediaType"], one["mediaType"])}
              for one in table["layers"]]  # fmt: skip
    config = Descriptor(oci.CONFIG, baked.config_descriptor.digest, baked.config_descriptor.size)
    table |= {"mediaType": oci.MANIFEST, "config": config, "layers": layers}
    return structs.replace(
        baked, manifest=oci.encode(table), media_type=oci.MANIFEST, config_descriptor=config
    )


class Moved(Struct, frozen=True):
    """What a bake did: the digest that the tag now stands for, and the bytes of blobs and manifests sent."""

    digest: str
    bytes: int = 0
    there: bool = False  # it was there before


def do(baked: Baked, source: Source, origin: Origin, target: Target, repository: str, known: Known) -> Moved:
    """Makes `repository:tag` of the target the baked image. Idempotent; many threads may do different images.

    Killed at any moment, nothing stands for half an image: the manifest goes last. A tag that is there is
    never written again: an image of the same pair counts as done, another's raises TagTakenError.
    """
    if target.oci_only:
        baked = as_oci(baked)
    holders = [known.holder(one.digest) for one in baked.ours]
    source = blame.OfBase(source)
    with blame.asking("target"), target.together(repository, source, origin.repository, holders):
        return _done(baked, source, origin, target, repository, known)


def _done(
    baked: Baked, source: Source, origin: Origin, target: Target, repository: str, known: Known
) -> Moved:
    found = target.find(repository, baked.tag)
    if found is not None:
        return Moved(_ours(baked, target, repository, found), there=True)
    sent = _taken(baked, source, origin, target, repository, known)
    try:
        made = target.put(repository, baked.tag, baked.manifest, baked.media_type)
    except BlobsMissingError:
        for blob in (*baked.blobs, *(one.descriptor for one in baked.ours)):
            known.forget(repository, blob.digest)
        sent += _taken(baked, source, origin, target, repository, known)
        made = target.put(repository, baked.tag, baked.manifest, baked.media_type)
    return Moved(made, sent + len(baked.manifest))


def _taken(
    baked: Baked, source: Source, origin: Origin, target: Target, repository: str, known: Known
) -> int:
    sent = 0
    for blob in baked.blobs:
        sent += target.take(repository, blob, source, origin.repository, known)
    for layer in baked.ours:
        sent += target.take(repository, layer.descriptor, Shelf(layer), repository, known)
    return sent + target.give(repository, baked.config_descriptor, baked.config)


def _ours(baked: Baked, target: Target, repository: str, found: str) -> str:
    """The digest found under the tag, if it is of the same base and the same bake: by another version of the
    kit the bytes may differ. Of a copy they may not."""
    if found != baked.digest:
        said = target.labels(repository, found) if baked.ours else {}
        if not baked.ours or any(said.get(one) != baked.labels.get(one) for one in (BASE_DIGEST, ADDRESS)):
            raise TagTakenError(
                f"{target.name}/{repository}:{baked.tag} is there and was not made here: found {found}, "
                f"expected {baked.digest}",
                "give another namespace to bake into",
            )
    return found


def _check(base: oci.Manifest, config: Mapping[str, Any], where: str, platform: Platform) -> None:
    oci.check_platform(config, platform, where)
    for layer in base.layers:
        if layer.media_type not in oci.LAYER_TYPES and not layer.urls:
            raise ForeignLayerError(f"{where} has a layer of type {layer.media_type!r}, which is nowhere")
    if (ids := len(oci.diff_ids(config, where))) != len(base.layers):
        raise InvalidFileError(f"{where} has {len(base.layers)} layers, and its config names {ids}")


def _layers(base: oci.Manifest, docker: bool, added: Added) -> tuple[Artifact, ...]:
    packed = added.wanted == "zstd" or any(one.media_type in ZSTDS for one in base.layers)
    main = added.zstd if added.zstd and packed and not docker else added.gzip
    return (main, added.tiny) if added.tiny else (main,)


def _labels(
    config: Mapping[str, Any], base_name: str, base_digest: str, added: Added, layer: Artifact
) -> dict[str, str]:
    inner = config.get("config") or {}
    was = {BASE_ENTRYPOINT: inner.get("Entrypoint"), BASE_CMD: inner.get("Cmd")}
    return {
        **added.labels,
        **{name: oci.encode(value).decode() for name, value in was.items() if value},
        BASE_NAME: base_name,
        BASE_DIGEST: base_digest,
        ADDRESS: added.address,
        LAYER: layer.digest,
        KEY: layer.key,
        VERSION: added.version,
    }


def _described(layer: Artifact, docker: bool) -> Descriptor:
    return Descriptor(DOCKER_GZIP, layer.digest, layer.size) if docker else layer.descriptor


def _to_take(layers: Sequence[Descriptor]) -> tuple[Descriptor, ...]:
    """Each digest once; layers that are to be fetched from elsewhere stay where they are."""
    there = [one for one in layers if one.media_type in oci.LAYER_TYPES]
    return tuple({one.digest: one for one in there}.values())
