"""A registry in memory, for what makes SIFs of a list."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from image_cache import oci
from image_cache.oci import Descriptor
from kit.errors import SlipworksError
from kit.nouns import Platform, digest
from runner.sif_sources import Sources

HERE = Platform.host()


def blob(raw: bytes, media_type: str = oci.GZIP) -> Descriptor:
    return Descriptor(media_type, digest(raw), len(raw))


def manifest(*layers: bytes) -> bytes:
    config = oci.encode(oci.plain_config(HERE, digest(b"x"), "x"))
    return oci.encode(oci.Manifest(blob(config, oci.CONFIG), tuple(map(blob, layers))))


class Answering:
    """A registry with one image under every name; fails where told to."""

    def __init__(self, host: str = "", *layers: bytes, fails: SlipworksError | None = None) -> None:
        self.layers, self.fails, self.asked, self.quota = layers or (b"layer",), fails, 0, None

    def image(self, wanted: object, platform: Platform) -> tuple[bytes, None]:
        self.asked += 1
        if self.fails:
            raise self.fails
        return manifest(*self.layers), None

    def blob(self, repository: str, wanted: Descriptor) -> Iterator[bytes]:
        config = oci.encode(oci.plain_config(HERE, digest(b"x"), "x"))
        yield from (each for each in (*self.layers, config) if digest(each) == wanted.digest)


def sources(folder: Path, registry: Any, **more: bool) -> Sources:
    return Sources(folder / "images", HERE, registry=lambda host: registry, **more)
