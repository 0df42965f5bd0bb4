"""Many writers at once, and writers that die: nothing is lost, and nothing half is there."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest

from image_cache import oci
from image_cache.store import Store
from kit import files
from kit.nouns import Image
from tests.unit.parts_images import AMD64, KEY, OTHER, fresh, sha, tar_of

FORK = multiprocessing.get_context("fork")


def put_many(root: Path, tar: Path, first: int) -> None:
    for number in range(first, first + 5):
        Store(root).put_root(
            tar, key=f"{number:064}", name=f"n{number}", platform=AMD64, labels={"n": f"{number % 7}"}
        )


def test_of_many_writers_none_is_lost(tmp_path: Path) -> None:
    (tmp_path / "root.tar").write_bytes(tar_of({"x": b"y"}))
    writing = [
        FORK.Process(target=put_many, args=(tmp_path / "store", tmp_path / "root.tar", n))
        for n in range(0, 30, 5)
    ]
    for one in writing:
        one.start()
    for one in writing:
        one.join(60)
    assert [one.exitcode for one in writing] == [0] * 6
    index = json.loads((tmp_path / "store" / "index.json").read_text())
    assert {one["annotations"][oci.REF_NAME] for one in index["manifests"]} == {f"n{n}" for n in range(30)}
    assert not list((tmp_path / "store").rglob(".*"))


def test_a_slow_writer_does_not_lose_a_fast_one(
    store: Store, image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worst interleaving: all of another's put falls between our look at the records and our rename."""
    write, fast = files.write, [5]

    def late(path: Path, data: bytes | str, mode: int = 0o644) -> None:
        if path.name == "index.json" and fast:
            put_many(store.root, tmp_path / "root.tar", fast.pop())
        write(path, data, mode)

    monkeypatch.setattr("image_cache.records.files.write", late)
    store.put_root(tmp_path / "root.tar", key=OTHER, name="slow", platform=AMD64)
    index = json.loads((store.root / "index.json").read_text())
    there = {one["annotations"][oci.REF_NAME] for one in index["manifests"]}
    assert there == {image.name, "slow", *(f"n{n}" for n in range(5, 10))}


def put_forever(root: Path, seed: int) -> None:
    noise = random.Random(seed)
    with fresh() as folder:
        for number in range(10_000):
            tar = Path(folder) / "root.tar"
            tar.write_bytes(tar_of({"x": noise.randbytes(200_000)}))
            Store(root).put_root(tar, key=f"{seed}{number:063}", name=f"n{seed}-{number}", platform=AMD64)


def test_killed_at_any_moment_nothing_half_is_there(tmp_path: Path) -> None:
    root = tmp_path / "store"
    pause = random.Random(7)
    for seed in range(1, 9):
        writer = FORK.Process(target=put_forever, args=(root, seed))
        writer.start()
        threading.Event().wait(pause.uniform(0.05, 0.4))  # the moment is what is tried
        os.kill(writer.pid or 0, signal.SIGKILL)
        writer.join(60)
        for blob in (root / "blobs/sha256").glob("[!.]*"):
            assert sha(blob.read_bytes()) == f"sha256:{blob.name}"
        store = Store(root)
        for image in store.list():
            assert store.find(image.key, "oci") == image
        if (root / "index.json").exists():
            index = json.loads((root / "index.json").read_text())
            assert all(store.blob(one["digest"]).exists() for one in index["manifests"])
    assert store.list()


def test_what_the_killed_left_is_cleared_a_day_later(store: Store, image: Image, tmp_path: Path) -> None:
    old, young = store.blobs / ".incoming.1-aa.tmp", store.blobs / ".incoming.2-bb.tmp"
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 90_000,) * 2)
    store.put_root(tmp_path / "root.tar", key=KEY, name=image.name, platform=AMD64)
    assert not old.exists() and young.exists()
