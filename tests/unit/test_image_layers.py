"""Layers made of a tar that is still being written, what an image is told of them, and notes."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from image_cache import oci, streams
from image_cache.store import Store
from kit import share
from kit.errors import InvalidFileError
from kit.nouns import Image
from tests.unit.parts_images import AMD64, KEY, OTHER, sha, tar_of

TAR = tar_of({f"{number}": bytes([number]) * 40_000 for number in range(60)})


def cut(raw: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, len(raw), size):
        yield raw[start : start + size]


@pytest.fixture
def small_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "FRAME", 2**18)


@pytest.mark.parametrize("size", [100, 512, 2**18, 10**7])
def test_a_layer_of_pieces(store: Store, small_frames: None, size: int) -> None:
    made = store.put_tar(KEY, cut(TAR, size), name="stack cuda")
    assert made == store.artifact(KEY)
    assert (made.diff_id, made.media_type, made.name) == (sha(TAR), oci.ZSTD, "stack cuda")
    packed = made.path.read_bytes()
    assert (sha(packed), len(packed)) == (made.digest, made.size)
    assert packed.count(b"\x28\xb5\x2f\xfd") == -(-len(TAR) // 2**18)
    with made.path.open("rb") as file:
        assert b"".join(streams.unpacked(file, made.media_type, "it")) == TAR


def test_the_bytes_do_not_depend_on_the_cores(
    store: Store, small_frames: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = set()
    for cores in (1, 2, 64):
        monkeypatch.setattr(share, "cpus", lambda cores=cores: cores)
        digests.add(store.put_tar(f"{cores:064}", cut(TAR, 777)).digest)
    assert len(digests) == 1


def test_no_more_threads_than_cores_that_count(
    store: Store, small_frames: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control groups' limits count, which an affinity mask does not show."""
    asked = []
    monkeypatch.setattr(share, "cpus", lambda: asked.append(1) or 1)
    store.put_tar(KEY, [TAR])
    assert asked


def test_a_layer_whose_making_fails_is_not_put(store: Store) -> None:
    def pieces() -> Iterator[bytes]:
        yield TAR
        raise PermissionError(13, "the producer's own file")

    with pytest.raises(PermissionError, match="the producer's own"):  # not told as the store's trouble
        store.put_tar(KEY, pieces())
    assert store.artifact(KEY) is None
    assert not list(store.blobs.iterdir())


def test_a_layer_that_repeats_is_once_in_a_docker_archive(store: Store, image: Image, tmp_path: Path) -> None:
    layer = store.put_tar(KEY, [TAR])
    made = store.put_on(image, [layer, layer], key=OTHER, name="x")
    store.write_docker_archive(made, tmp_path / "out.tar")
    with tarfile.open(tmp_path / "out.tar") as tar:
        assert len([one for one in tar.getnames() if one.endswith("layer.tar")]) == 2
        entry = json.load(tar.extractfile("manifest.json"))[0]  # type: ignore[arg-type]
        assert entry["RepoTags"] == ["x:latest"]
        bodies = [tar.extractfile(name).read() for name in entry["Layers"]]  # type: ignore[union-attr]
    assert bodies[1:] == [TAR] * 2


def put_large(root: Path, tar: Path, answer: Any) -> None:
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    store = Store(root)
    image = store.put_root(tar, key=KEY, name="large", platform=AMD64)
    store.write_docker_archive(image, tar.with_name("saved.tar"))
    answer.put(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


def test_memory_stays_flat(tmp_path: Path) -> None:
    """100 MB (of nothing, in a sparse file) through both ways need less than a third of that."""
    member = tarfile.TarInfo("large")
    member.size = 100 * 2**20
    with (tmp_path / "root.tar").open("wb") as file:
        file.write(member.tobuf())
        file.truncate(512 + member.size + 1024)
    fork = multiprocessing.get_context("fork")
    answer = fork.Queue()
    child = fork.Process(target=put_large, args=(tmp_path / "store", tmp_path / "root.tar", answer))
    child.start()
    assert answer.get(timeout=120) < 30 * 1024  # KiB
    child.join(60)
    shutil.rmtree(tmp_path / "store")
    for path in tmp_path.glob("*.tar"):
        path.unlink()


def test_what_is_no_tar_is_no_layer(store: Store) -> None:
    with pytest.raises(InvalidFileError, match="the layer stack cuda is not a tar"):
        store.put_tar(KEY, [b"hello " * 1000], name="stack cuda")
    assert store.artifact(KEY) is None


def test_an_image_says_what_is_in_it(store: Store, image: Image) -> None:
    named = store.put_tar(KEY, [TAR], name="stack cuda")
    nameless = store.put_tar(OTHER, [tar_of({})])
    before = store.opened(image)[1]["config"]
    made = store.put_on(
        image, [named, nameless], key="c" * 64, name="it",
        env={"PATH": "/opt/stack/bin:/bin", "LANG": "C.UTF-8", "A": "b=c"}, env_path="/slipworks/bin",
        labels={"one": "two"}, cmd=["bash"], working_dir="/tmp",
    )  # fmt: skip
    config = store.opened(made)[1]
    assert [one["created_by"] for one in config["history"]][1:] == [
        f"slipworks stack cuda {KEY[:12]}",
        f"slipworks layer {OTHER[:12]}",
    ]
    assert config["config"] == {
        "Env": ["PATH=/opt/stack/bin:/bin:/slipworks/bin", "A=b=c", "LANG=C.UTF-8"],
        "Labels": {**before["Labels"], "one": "two"},
        "Cmd": ["bash"],
        "WorkingDir": "/tmp",
    }
    again = store.put_on(made, [], key="d" * 64, name="again", env={"A": "d"}, entrypoint=["tini", "--"])
    inner = store.opened(again)[1]["config"]
    assert inner["Env"] == ["PATH=/opt/stack/bin:/bin:/slipworks/bin", "A=d", "LANG=C.UTF-8"]
    assert (inner["Entrypoint"], inner["Cmd"], inner["WorkingDir"]) == (["tini", "--"], [], "/tmp")
    kept = store.put_on(made, [], key="e" * 64, name="kept", entrypoint=["tini"], cmd=["sh"])
    assert store.opened(kept)[1]["config"]["Cmd"] == ["sh"]


@pytest.mark.parametrize("raw", [b"", b"{}", os.urandom(300_000), b"x" * 10**6])
def test_notes(store: Store, raw: bytes) -> None:
    digest = sha(raw)
    assert store.note(digest, "inventory") is None
    store.put_note(digest, "inventory", b"old")
    store.put_note(digest, "inventory", raw)
    assert store.note(digest, "inventory") == raw
    assert store.note(digest, "report") is None
    assert store.note(sha(b"other"), "inventory") is None


@pytest.mark.parametrize("harm", ["cut", "flip", "empty", "folder"])
def test_a_damaged_note_is_none(store: Store, harm: str) -> None:
    digest = sha(b"it")
    store.put_note(digest, "inventory", os.urandom(1000))
    path = store.notes.path(digest, "inventory")
    raw = path.read_bytes()
    path.unlink()
    if harm == "folder":
        path.mkdir()
    else:
        path.write_bytes(
            {"cut": raw[:-3], "flip": raw[:500] + bytes([raw[500] ^ 1]) + raw[501:]}.get(harm, b"")
        )
    assert store.note(digest, "inventory") is None


def test_a_note_is_of_a_digest(store: Store) -> None:
    with pytest.raises(InvalidFileError):
        store.note("../../x", "inventory")
    with pytest.raises(InvalidFileError):
        store.put_note(sha(b""), "../x", b"")


def test_the_store_is_found_again_elsewhere(store: Store, tmp_path: Path) -> None:
    made = store.put_tar(KEY, [TAR], name="n")
    store.root.rename(tmp_path / "moved")
    found = Store(tmp_path / "moved").artifact(KEY)
    assert found is not None and found.digest == made.digest and found.path.is_relative_to(tmp_path / "moved")
