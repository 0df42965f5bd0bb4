"""The runner's layer on a machine without apt: made of the files of a pulled image, none of it run."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec import structs

from containers import bootstrap
from definitions import bases, layers
from image_cache import transfer
from image_cache.store import Store
from kit import process
from kit.nouns import LayerSpec, Platform
from runner import building
from tests.live.parts_roots import base, need_apt, quiet
from tests.live.test_layer import inside

pytestmark = [pytest.mark.live, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def python_image(registry_host: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A registry's image with a whole Python below /usr/local, as the official one has it; by digest."""
    folder = tmp_path_factory.mktemp("python image")
    need_apt()
    root = folder / "root"
    root.mkdir()
    bootstrap.root(base("trixie", ("python3.13",)), Platform.host(), folder / "whole.tar", quiet)
    process.run(["tar", "-C", root, "-xf", folder / "whole.tar"], what="unpack a root")
    (root / "usr/local/bin").mkdir(parents=True, exist_ok=True)
    shutil.rmtree(root / "usr/local/lib")  # holds a folder for further packages only
    (root / "usr/local/lib").mkdir()
    (root / "usr/bin/python3.13").rename(root / "usr/local/bin/python3.13")
    (root / "usr/lib/python3.13").rename(root / "usr/local/lib/python3.13")
    process.run(["tar", "-C", root, "-cf", folder / "root.tar", "."], what="pack a root")
    store = Store(folder / "store")
    image = store.put_root(folder / "root.tar", key="f" * 64, name="python", platform=Platform.host())
    digest = transfer.push(store, image, f"{registry_host}/python:3.13")
    return f"{registry_host}/python@{digest}"


def test_it_starts_where_there_is_nothing_else(
    python_image: str, rooted: Callable[[str], Path], tmp_path: Path
) -> None:
    packaged = layers.load("slipworks", "debian")
    spec = structs.replace(packaged, base=python_image, prefix="/usr/local", packages=(), pins={})
    store = Store(tmp_path / "store")
    made = building.layer_artifact(spec, Platform.host(), store)
    assert building.layer_artifact(spec, Platform.host(), store) == made
    root = tmp_path / "root"
    shutil.copytree(rooted("busybox"), root, symlinks=True)
    process.run(["tar", "-C", root, "-xzf", made.path], what="unpack the layer")
    told = inside(root, "/slipworks/bin/runner", "--version", user="12345:12345")
    assert (told.code, told.err) == (0, "") and told.out.startswith("runner ")


def test_without_apt_the_pinned_base_is_taken() -> None:
    spec: LayerSpec = layers.load("slipworks", None)
    pinned = bases.load("python312")
    assert spec.base == f"docker.io/library/python@{pinned.digest}"
    assert (spec.python, spec.prefix, spec.packages) == (pinned.python, "/usr/local", ())
    assert set(spec.locks) == {"amd64", "arm64"}
