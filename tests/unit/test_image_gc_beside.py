"""What gc does beside builds, with hours made seconds."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path

import pytest

from image_cache import garbage, gc, litter, stamps
from image_cache.ensure import ensure, ensure_artifact
from image_cache.store import Store
from kit.nouns import Image
from tests.unit.parts_images import sha, tar_of
from tests.unit.test_image_gc import made

FORK = multiprocessing.get_context("fork")


def quick() -> None:
    garbage.HOUR, garbage.DAY, stamps.COARSE = 3.0, 4.0, 0.2


BASE = sha(b"base")[7:]


def build_on(root: Path, seed: int, until: float) -> None:
    """Makes and finds images; each must be whole whenever the store has given it."""
    quick()
    store, count = Store(root), 0
    while time.time() < until:
        count += 1
        name = f"i{int(time.time() * 2)}-{count % 3}"  # asked for by all builders at once, then never again
        key = sha(name.encode())[7:]

        def base() -> Image:
            return made(store, "base", x=b"the same")

        def build(key: str = key, name: str = name) -> Image:
            below = ensure(store, BASE, "oci", base)
            layer = ensure_artifact(store, key, lambda: store.put_tar(key, [tar_of({name: b"y" * 9000})]))
            return store.put_on(below, [layer], key=key, name=name)

        image = ensure(store, key, "oci", build)
        assert store.damaged(image) == [], seed


def test_beside_builds_nothing_that_is_used_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, names_ in ((garbage, ("HOUR", "DAY")), (stamps, ("COARSE",))):
        for name in names_:
            monkeypatch.setattr(module, name, getattr(module, name))  # put back at the end
    quick()
    root, until = tmp_path / "store", time.time() + 8
    building = [FORK.Process(target=build_on, args=(root, seed, until)) for seed in range(2)]
    for one in building:
        one.start()
    gone: list[litter.Garbage] = []
    while any(one.is_alive() for one in building):
        store = Store(root)
        gc.collect(store, garbage.plan(store, 0), gone.append)
        building[0].join(0.05)
    for one in building:
        one.join(60)
    assert [one.exitcode for one in building] == [0, 0]
    assert {each.kind for each in gone} >= {"image", "layer", "blob"}, "this proved nothing"
