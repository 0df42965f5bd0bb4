"""Whose Python byte-compiles: the runner's layer's where its version is the base's, else the base's own."""

from __future__ import annotations

import contextlib
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from msgspec import structs

from definitions import bases, layers
from image_cache.store import Store
from kit.nouns import Platform
from runner import compiling

AMD, ARM = Platform("amd64"), Platform("arm64")
OWN = layers.load("slipworks", "debian")


def test_a_base_of_the_layers_version_is_compiled_by_the_layers_python() -> None:
    ground = bases.load("bootstrap", "debian")
    names = {compiling.named(OWN, ground, each) for each in (AMD, ARM)}
    assert len(names) == 1, "the key does not know the builder"
    assert re.fullmatch(r"debian trixie python3\.13-minimal 3\.13\.\d+\S*", str(names.pop()))
    assert compiling.named(OWN, structs.replace(ground, digest="sha256:" + "1" * 64), AMD) == compiling.named(
        OWN, ground, AMD
    )


@pytest.mark.parametrize(
    "own",
    [structs.replace(OWN, python="3.12"), structs.replace(OWN, base="registry.example/python@sha256:0")],
)
def test_another_version_or_a_pulled_layer_leaves_it_to_the_base(own: object) -> None:
    ground = bases.load("bootstrap", "debian")
    assert isinstance(own, type(OWN))
    assert not compiling.fits(own, ground) and compiling.named(own, ground, AMD) is None


def test_of_a_distribution_without_pins_the_name_tells_no_version() -> None:
    own, ground = layers.load("slipworks", "ubuntu"), bases.load("bootstrap", "ubuntu")
    assert compiling.named(own, ground, AMD) == "ubuntu noble python3.12-minimal as it is there"


def test_files_that_two_ask_for_at_once_are_put_there_once(tmp_path: Path) -> None:
    filled: list[Path] = []

    def fill(root: Path) -> None:
        filled.append(root)
        time.sleep(0.2)  # the other would come in between, if it could
        root.mkdir()

    with contextlib.ExitStack() as stays, ThreadPoolExecutor(2) as pool:
        folder = compiling.Folder(fill, Store(tmp_path / "images"), stays)
        first, second = (pool.submit(folder.root) for _ in "ab")
        assert first.result() == second.result() == filled[0] and filled[0].is_dir()
    assert len(filled) == 1 and not filled[0].exists()
