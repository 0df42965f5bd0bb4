"""Baked against Docker's own registry: every byte is pulled back and compared."""

from __future__ import annotations

from pathlib import Path

import pytest

from image_cache import bake, oci
from image_cache.places import Remembered
from image_cache.places.registry import RegistrySource, RegistryTarget
from image_cache.registry import Registry
from kit.nouns import Platform
from tests.live.parts_bake import Bases, added, pulled

pytestmark = pytest.mark.live
AMD64 = Platform("amd64")


@pytest.mark.parametrize("docker", [False, True])
def test_a_baked_image_is_its_base_with_the_layers_on_top(
    registry_host: str, tmp_path: Path, docker: bool
) -> None:
    bases = Bases(registry_host, tmp_path)
    base = bases.make("etc/one", "etc/two", docker=docker)
    source = RegistrySource(Registry(registry_host))
    target = RegistryTarget(Registry(registry_host))
    more = added(tmp_path)
    got = source.image(base, AMD64)
    baked = bake.planned(got.manifest, got.config, f"{base}", got.digest, more)
    moved = bake.do(baked, source, base, target, "baked/one", Remembered())
    assert moved.digest == baked.digest == target.find("baked/one", baked.tag)
    manifest, config, tars = pulled(registry_host, "baked/one", baked.tag)
    assert tars == [*bases.tars(base), *(one.diff_id for one in (more.gzip, more.tiny) if one)]
    assert oci.diff_ids(config, "baked") == tars
    assert manifest.media_type == (oci.DOCKER_MANIFEST if docker else oci.MANIFEST)
    again = bake.do(baked, source, base, target, "baked/one", Remembered())
    assert again.there and again.bytes == 0
