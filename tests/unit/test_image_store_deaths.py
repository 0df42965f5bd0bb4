"""Many writers at once, and writers that die: nothing is lost, and nothing half is there."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from image_cache import garbage, gc, oci
from image_cache.store import Store
from kit import files
from kit.nouns import Image
from tests.unit.parts_images import AMD64, KEY, OTHER, sha, tar_of

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
    tar = root.with_name("root.tar")
    for number in range(10_000):
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


STEPS = {"os.rename", "os.remove", "os.link", "os.mkdir", "os.rmdir", "os.utime", "os.chmod"}
LAYER = "c" * 64


def changes(event: str, args: tuple[Any, ...]) -> bool:
    """Whether the interpreter is about to change something on disk."""
    return event in STEPS or (event == "open" and bool(args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)))


def until(step: int, act: Callable[[Path], object], root: Path) -> None:
    """Acts, and is killed right before its nth change of the disk."""
    count = 0

    def hook(event: str, args: tuple[Any, ...]) -> None:
        nonlocal count
        if changes(event, args):
            count += 1
            if count == step:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    act(root)


def killed_at_every_step(act: Callable[[Path], object], whole: Path, folder: Path) -> Iterator[Path]:
    """A copy of a store for every step at which `act` on it was killed; the last one ran to its end."""
    for step in range(1, 300):
        root = folder / f"killed at {step}"
        shutil.copytree(whole, root, symlinks=True)  # with its times
        child = FORK.Process(target=until, args=(step, act, root))
        child.start()
        child.join(60)
        assert child.exitcode in (0, -signal.SIGKILL)
        yield root
        shutil.rmtree(root)
        if child.exitcode == 0:
            assert step > 8, "nothing was killed"
            return
    raise AssertionError("it never ended")


def consistent(root: Path) -> None:
    """What has its name is whole, what is listed is found, and the index leads to it."""
    store = Store(root)
    for blob in (root / "blobs/sha256").glob("[!.]*"):
        assert sha(blob.read_bytes()) == f"sha256:{blob.name}"
    for image in store.list():
        assert store.find(image.key, "oci") == image and store.damaged(image) == []
    if (root / "index.json").exists():
        index = json.loads((root / "index.json").read_text())
        assert all(store.blob(one["digest"]).exists() for one in index["manifests"])


def make(root: Path) -> None:
    """As a build: a layer, a note of it, an image."""
    store = Store(root)
    base = store.find(KEY, "oci")
    assert base
    layer = store.artifact(LAYER) or store.put_tar(LAYER, [tar_of({"x": bytes(9000)})], name="x")
    store.put_note(layer.diff_id, "inventory", b"facts")
    store.put_on(base, [layer], key=OTHER, name="made", labels={"a": "b"})


def test_a_build_killed_at_every_step_goes_on(store: Store, image: Image, tmp_path: Path) -> None:
    digests = set()
    for root in killed_at_every_step(make, store.root, tmp_path):
        consistent(root)
        after = Store(root)
        note = after.note(layer.diff_id, "inventory") if (layer := after.artifact(LAYER)) else None
        assert note in (None, b"facts")
        make(root)
        consistent(root)
        found = after.find(OTHER, "oci")
        digests.add(found and found.digest)
        left = [path for path in root.rglob("*.tmp")]
        assert all(path.name.startswith(".") for path in left)
        for path in left:
            os.utime(path, (0, 0))
        gc.collect(after, garbage.plan(after, 14))
        assert not list(root.rglob("*.tmp"))
        consistent(root)
        assert after.find(OTHER, "oci") == found and after.find(KEY, "oci")
    assert len(digests) == 1


def collect(root: Path) -> None:
    gc.collect(Store(root), garbage.plan(Store(root), 14))


def test_gc_killed_at_every_step_goes_on(store: Store, image: Image, tmp_path: Path) -> None:
    make(store.root)
    gone = store.put_on(image, [store.put_tar("d" * 64, [tar_of({"y": b"z"})])], key="e" * 64, name="gone")
    store.put_note(gone.digest, "inventory", b"x")
    (store.blobs / ".incoming.1-aa.tmp").write_bytes(b"half")
    for path in [*store.root.rglob("*"), store.root]:
        os.utime(path, (10**9, 10**9))
    os.utime(store.records.path(OTHER, "oci"))
    for root in killed_at_every_step(collect, store.root, tmp_path):
        consistent(root)
        assert {one.name for one in Store(root).list()} >= {image.name, "made"}
        if (record := Store(root).records.path("e" * 64, "oci")).exists():
            os.utime(record, (10**9, 10**9))  # the look above was a use
        collect(root)
        collect(root)  # what the killed one had moved away was given back by the first
        consistent(root)
        after = Store(root)
        assert {one.name for one in after.list()} == {image.name, "made"}
        assert len(list((root / "blobs/sha256").iterdir())) == 6  # of each a manifest, a config, a layer
        assert len(json.loads((root / "index.json").read_text())["manifests"]) == 2
        for path in root.rglob("*.tmp"):  # the killed one's own, which goes when it is old
            os.utime(path, (0, 0))
        collect(root)
        assert not list(root.rglob("*.tmp"))
        assert after.note(gone.digest, "inventory") is None
