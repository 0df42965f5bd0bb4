"""Engines for real: an image of the store is loaded by each of them, and what is wrong with it is told."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import structs

from containers import engine
from containers.engine import Engine
from containers.workplace import config_digest
from image_cache.store import Store
from kit.errors import NoSpaceError, SlipworksError
from kit.nouns import Image, Platform, key_of
from tests.live.needs import need
from tests.live.parts_engines import layered

pytestmark = pytest.mark.live


@pytest.fixture(params=["podman", "buildah", "docker"])
def oci_engine(request: pytest.FixtureRequest, tiny_store: Store) -> Engine:
    name = request.param
    request.getfixturevalue("private_dockerd" if name == "docker" else "private_storage")
    need(shutil.which(name), f"{name} is not installed")
    made = engine.get(name, tiny_store.write_docker_archive)
    assert made.check()[0].isdigit()
    return made


def test_an_image_is_loaded_once(oci_engine: Engine, tiny_image: Image) -> None:
    reference = f"localhost/slipworks/test-{oci_engine.name}:1"
    assert oci_engine.has(reference) is None
    oci_engine.load(tiny_image, reference)
    assert oci_engine.has(reference) == config_digest(tiny_image)
    before = time.monotonic()
    oci_engine.load(tiny_image, reference)
    assert time.monotonic() - before < 1


def test_another_image_takes_the_name_over(oci_engine: Engine, tiny_image: Image, tiny_base: Image) -> None:
    reference = f"localhost/slipworks/test-{oci_engine.name}:again"
    for image in (tiny_image, tiny_base):
        oci_engine.load(image, reference)
        assert oci_engine.has(reference) == config_digest(image)


def test_a_foreign_image_is_loaded(oci_engine: Engine, tiny_root: Path, tiny_store: Store) -> None:
    foreign = Platform("arm64" if Platform.host().arch == "amd64" else "amd64")
    key = key_of({"base": str(foreign)})
    image = tiny_store.put_root(tiny_root, key=key, name="base-foreign", platform=foreign)
    reference = f"localhost/slipworks/test-foreign:{oci_engine.name}"
    oci_engine.load(image, reference)
    assert oci_engine.has(reference) == config_digest(image)


@pytest.fixture
def damaged(tiny_base: Image, tiny_store: Store, tmp_path: Path) -> tuple[Store, Image]:
    """A store of its own, in which one layer, which no engine has seen before, has another byte."""
    shutil.copytree(tiny_store.root, tmp_path / "store")
    store = Store(tmp_path / "store")
    image = layered(store, structs.replace(tiny_base, path=store.root), f"damaged-{tmp_path.name}".lower())
    layer = store.blob(store.opened(image)[0].layers[-1].digest)
    raw = bytearray(layer.read_bytes())
    raw[-1] ^= 1
    layer.write_bytes(raw)
    return store, image


def test_a_damaged_layer_is_refused(oci_engine: Engine, damaged: tuple[Store, Image]) -> None:
    store, image = damaged
    made = engine.get(oci_engine.name, store.write_docker_archive)
    reference = f"localhost/slipworks/test-damaged:{oci_engine.name}"
    said = "damaged" if oci_engine.name == "docker" else f"could not load {image.name} into {made.name}"
    with pytest.raises(SlipworksError, match=said):
        made.load(image, reference)
    assert made.has(reference) is None


def test_an_image_that_the_store_lost_is_named(oci_engine: Engine, damaged: tuple[Store, Image]) -> None:
    store, image = damaged
    (image.path / "blobs" / image.digest.replace(":", "/")).unlink()
    with pytest.raises(SlipworksError, match=image.name):
        engine.get(oci_engine.name, store.write_docker_archive).load(image, "localhost/slipworks/test-lost:1")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    need(os.geteuid() == 0, "a small file system needs root")
    disk = tmp_path / "small disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2500k", "tmpfs", disk], check=True)
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_full_disk_beside_the_store_is_named(
    private_dockerd: str, tiny_image: Image, tiny_store: Store, small_disk: Path
) -> None:
    """docker reads an archive, which is written beside the store."""
    need(shutil.which("docker"), "docker is not installed")
    shutil.copytree(tiny_store.root, small_disk / "store", ignore=lambda _, names: set())
    store = Store(small_disk / "store")
    image = store.find(tiny_image.key, "oci")
    assert image
    with pytest.raises(NoSpaceError) as raised:
        engine.get("docker", store.write_docker_archive).load(image, "localhost/slipworks/test-full:1")
    assert raised.value.hint
    assert not list(store.root.glob(".*.tmp"))


@pytest.mark.parametrize("name", ["podman", "buildah"])
def test_a_full_storage_is_named(
    name: str, tiny_image: Image, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need(shutil.which(name), f"{name} is not installed")
    conf = small_disk / "storage.conf"
    conf.write_text(f'[storage]\ndriver = "vfs"\ngraphroot = "{small_disk}/g"\nrunroot = "{small_disk}/r"\n')
    monkeypatch.setenv("CONTAINERS_STORAGE_CONF", str(conf))
    with pytest.raises(NoSpaceError, match=f"could not load {tiny_image.name} into {name}") as raised:
        engine.get(name).load(tiny_image, "localhost/slipworks/test-full:1")
    assert raised.value.hint
