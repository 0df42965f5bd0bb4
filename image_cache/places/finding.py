"""From what a place is called to the place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from image_cache.places import Origin, Source, Target
from image_cache.places.archive import ArchiveTarget
from image_cache.places.docker import DockerArchiveSource
from image_cache.places.files import Archive, Folder
from image_cache.places.layout import LayoutSource, LayoutTarget
from image_cache.places.registry import RegistrySource, RegistryTarget
from image_cache.references import Reference
from image_cache.registry import Registry
from kit.errors import InvalidFileError, UnsupportedError

RegistryOf = Callable[[str], Registry]


def source(origin: Origin, registry_of: RegistryOf = Registry) -> Source:
    """Where an image is taken from. Keep it, for all images of its place: it remembers what it read."""
    if origin.kind == "registry":
        return RegistrySource(registry_of(origin.place))
    path = Path(origin.place)
    if origin.kind == "docker-archive":
        return DockerArchiveSource(Archive(path))
    return LayoutSource(Folder(path) if origin.kind == "oci" else Archive(path))


def target(to: str, registry_of: RegistryOf = Registry) -> Target:
    """`REGISTRY/NAMESPACE`, `oci:DIR` or `oci-archive:FILE`; one for all images, which `close` ends."""
    kind, colon, path = to.partition(":")
    if colon and kind in ("oci", "oci-archive"):
        if not path or ":" in path:
            raise InvalidFileError(f"not a place to put images: found {to!r}, expected {kind}:PATH")
        whole = Path(path).absolute()
        return LayoutTarget(whole) if kind == "oci" else ArchiveTarget(whole)
    if kind == "docker-archive":
        raise UnsupportedError(
            "a docker-archive holds every layer of every image unpacked: nothing is baked into one",
            f"oci-archive:{path}",
        )
    host = Reference.parse(f"{to}/name").host
    return RegistryTarget(registry_of(host))
