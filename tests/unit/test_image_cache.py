"""The store keeps its promises for any tree of files, any cut of bytes, and at any moment of death."""

from __future__ import annotations

import gzip
import hashlib
import io
import itertools
import json
import multiprocessing
import os
import random
import shutil
import signal
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from image_cache import archives, oci, streams
from image_cache.oci import Artifact
from image_cache.store import Store
from kit import files
from kit.errors import HashMismatchError, HostError, InvalidFileError, UnsupportedError
from kit.nouns import Image, Platform

AMD64, ARM64 = Platform("amd64"), Platform("arm64")
FORK = multiprocessing.get_context("fork")
FEW = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
KEY, OTHER = "a" * 64, "b" * 64

# Names as people and archives have them: spaces, quotes, newlines, dots, letters of any script.
names = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=20)
trees = st.dictionaries(
    names.filter(lambda name: name not in (".", "..")), st.binary(max_size=2000), max_size=5
)


def tar_of(tree: dict[str, bytes], folder: str = "slipworks") -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as out:
        for name, body in sorted(tree.items()):
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(body)
            out.addfile(member, io.BytesIO(body))
    return raw.getvalue()


def sha(raw: bytes) -> str:
    return "sha256:" + hashlib.sha256(raw).hexdigest()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / 'a store\'s "own"\nfolder')


@pytest.fixture
def image(store: Store, tmp_path: Path) -> Image:
    (tmp_path / "root.tar").write_bytes(tar_of({"hello": b"world"}, "etc"))
    return store.put_root(
        tmp_path / "root.tar", key=KEY, name="base-amd64", platform=AMD64, labels={"org.example": "x"}
    )


def fresh() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="store ")


# -- what is put -----------------------------------------------------------------------------------


@settings(FEW, max_examples=12)
@given(trees, st.lists(trees, max_size=3))
def test_layers_diff_ids_and_history_stay_in_step(
    base: dict[str, bytes], layers: list[dict[str, bytes]]
) -> None:
    digests = []
    for _ in range(2):  # the same in two stores
        with fresh() as folder:
            store = Store(Path(folder) / "store")
            image = appended(store, Path(folder), base, layers)
            manifest, config = store.opened(image)
            tars = [tar_of(base, "base"), *(tar_of(tree) for tree in layers)]
            assert oci.diff_ids(config, "it") == [sha(raw) for raw in tars]
            assert [gzip.decompress(store.blob(one.digest).read_bytes()) for one in manifest.layers] == tars
            assert len([one for one in config["history"] if not one.get("empty_layer")]) == len(tars)
            assert all(sha(store.blob(one.digest).read_bytes()) == one.digest for one in manifest.blobs)
            assert all(store.blob(one.digest).stat().st_size == one.size for one in manifest.blobs)
            assert store.find(KEY, "oci") == image
            digests.append(image.digest)
    assert digests[0] == digests[1]


def appended(store: Store, folder: Path, base: dict[str, bytes], layers: list[dict[str, bytes]]) -> Image:
    (folder / "base.tar").write_bytes(tar_of(base, "base"))
    root = store.put_root(folder / "base.tar", key=OTHER, name="root", platform=AMD64)
    store.write_docker_archive(root, folder / "saved.tar")
    artifacts = []
    for number, tree in enumerate(layers):
        (folder / "layer.tar").write_bytes(tar_of(tree))
        artifacts.append(store.put_artifact(f"{number}" * 64, folder / "layer.tar"))
    return store.put_archive(
        folder / "saved.tar",
        key=KEY,
        name="it",
        platform=AMD64,
        append=artifacts,
        env_path_append="/slipworks/bin",
    )


@FEW
@given(st.binary(max_size=5000), st.lists(st.integers(0, 5000), max_size=6), st.integers(1, 600))
def test_packing_does_not_depend_on_how_bytes_come(raw: bytes, cuts: list[int], member: int) -> None:
    edges = [0, *sorted(cuts), len(raw)]
    cut = [raw[a:b] for a, b in itertools.pairwise(edges)]
    before, streams.MEMBER = streams.MEMBER, member
    try:
        packed = b"".join(streams.packed(cut))
        assert packed == b"".join(streams.packed([raw]))
    finally:
        streams.MEMBER = before
    assert gzip.decompress(packed) == raw
    assert packed[:10] == bytes.fromhex("1f8b0800000000000003") or packed[4:8] == b"\0\0\0\0"


@FEW
@given(st.binary(min_size=1, max_size=4000), st.integers(0, 3), st.data())
def test_a_packed_stream_that_was_cut_is_no_layer(raw: bytes, kind: int, data: st.DataObject) -> None:
    packed = zstandard.compress(raw) if kind % 2 else gzip.compress(raw)
    if kind > 1:  # two members, or two frames
        packed += packed
    media_type = streams.compression(packed[:4])
    assert b"".join(streams.unpacked(io.BytesIO(packed), media_type, "it")) == (raw * 2 if kind > 1 else raw)
    half = len(packed) // 2 if kind > 1 else 0
    cut = data.draw(st.integers(1, len(packed) - 1).filter(lambda size: size != half))
    with pytest.raises(InvalidFileError, match="damaged layer"):
        list(streams.unpacked(io.BytesIO(packed[:cut]), media_type, "it"))


def test_the_base_keeps_its_path_labels_and_history(store: Store, image: Image, tmp_path: Path) -> None:
    store.write_docker_archive(image, tmp_path / "saved.tar")
    saved = tmp_path / "saved.tar"
    put = {"key": OTHER, "name": "again", "platform": AMD64}
    same = store.put_archive(saved, **put)
    assert same.digest == image.digest  # layers packed the same way, config as it was
    more = store.put_archive(saved, **put, labels={"a": "b"}, env_path_append="/slipworks/bin")
    config = store.opened(more)[1]
    assert more.labels == {"org.example": "x", "a": "b"} == config["config"]["Labels"]
    assert config["config"]["Env"] == [f"PATH={oci.PLAIN_PATH}:/slipworks/bin"]
    assert oci.appended(config, labels={"a": "b"}, path="/slipworks/bin") == config


def config_of(count: int, **more: Any) -> dict[str, Any]:
    ids = [sha(bytes([number])) for number in range(count)]
    return {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": ids}, **more}


LAYER = Artifact(key=KEY, digest=sha(b"d"), diff_id=sha(b"i"), size=1, media_type=oci.GZIP, path=Path("x"))


def test_a_base_without_history_gets_as_many_entries_as_layers() -> None:
    for stated in ({}, {"history": None}, {"history": [{"created_by": "x"}]}):
        config = oci.appended(config_of(3, **stated), [LAYER])
        assert len(config["history"]) == 4 and config["history"][-1]["created_by"].startswith(
            "slipworks layer"
        )
    told = [{"created_by": "a"}, {"created_by": "b", "empty_layer": True}]
    assert oci.appended(config_of(1, history=told), [LAYER])["history"][:2] == told


def test_an_environment_without_path_gets_the_engines_own_first() -> None:
    config = oci.appended(config_of(0, config={"Env": ["A=b"]}), path="/x")
    assert config["config"]["Env"] == ["A=b", f"PATH={oci.PLAIN_PATH}:/x"]


def test_more_layers_than_engines_take() -> None:
    assert oci.appended(config_of(126), [LAYER])
    with pytest.raises(UnsupportedError, match="128 layers: engines take 127"):
        oci.appended(config_of(127), [LAYER])


@pytest.mark.parametrize("name", ["", "a b", "-a", "a/b", "ä", "x" * 129, "a:b"])
def test_a_name_must_be_a_tag(name: str, store: Store, tmp_path: Path) -> None:
    (tmp_path / "x.sif").write_bytes(b"x")
    with pytest.raises(InvalidFileError, match="not a name for an image"):
        store.put_sif(tmp_path / "x.sif", key=KEY, name=name, platform=AMD64)


def test_a_name_stands_for_one_key(store: Store, image: Image, tmp_path: Path) -> None:
    with pytest.raises(InvalidFileError, match="belongs to the key aaaaaaaaaaaa: found bbbbbbbbbbbb"):
        store.put_root(tmp_path / "root.tar", key=OTHER, name=image.name, platform=AMD64)


def test_the_layout_is_oci(store: Store, image: Image) -> None:
    assert json.loads((store.root / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    index = json.loads((store.root / "index.json").read_text())
    assert index["schemaVersion"] == 2
    assert index["manifests"] == [
        {
            "mediaType": oci.MANIFEST,
            "digest": image.digest,
            "size": store.blob(image.digest).stat().st_size,
            "platform": {"architecture": "amd64", "os": "linux"},
            "annotations": {oci.REF_NAME: "base-amd64"},
        }
    ]
    manifest = json.loads(store.blob(image.digest).read_text())
    assert (manifest["schemaVersion"], manifest["mediaType"]) == (2, oci.MANIFEST)


def test_a_sif_is_taken_over(store: Store, tmp_path: Path) -> None:
    for body in (b"first", b"other"):
        (tmp_path / "x.sif").write_bytes(body)
        image = store.put_sif(tmp_path / "x.sif", key=KEY, name="it", platform=ARM64, labels={"a": "b"})
        assert not (tmp_path / "x.sif").exists()
        assert image.path.read_bytes() == body and image.digest == sha(body)
        assert store.find(KEY, "sif") == image and store.find(KEY, "oci") is None
    image.path.write_bytes(b"cut")
    assert store.find(KEY, "sif") is None


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress])
def test_an_artifact_is_found_by_its_key(pack: Any, store: Store, tmp_path: Path) -> None:
    raw = tar_of({"bin": b"x"})
    (tmp_path / "layer").write_bytes(pack(raw))
    assert store.artifact(KEY) is None
    put = store.put_artifact(KEY, tmp_path / "layer", diff_id=sha(raw))
    assert store.artifact(KEY) == put and put.diff_id == sha(raw)
    if pack is not bytes:
        assert put.digest == sha(pack(raw))
    with pytest.raises(HashMismatchError, match="expected sha256:0000"):
        store.put_artifact(OTHER, tmp_path / "layer", diff_id="sha256:" + "0" * 64)
    assert store.artifact(OTHER) is None
    put.path.write_bytes(b"")
    assert store.artifact(KEY) is None


@pytest.mark.parametrize("body", [b"no tar", b"#!/bin/sh\n" * 100, gzip.compress(b"no tar" * 200)])
def test_what_is_no_tar_is_no_layer(body: bytes, store: Store, tmp_path: Path) -> None:
    (tmp_path / "layer").write_bytes(body)
    with pytest.raises(InvalidFileError, match="not a tar archive"):
        store.put_artifact(KEY, tmp_path / "layer")
    assert not store.blobs.exists() or not list(store.blobs.iterdir())


# -- what is found ---------------------------------------------------------------------------------


def test_a_hit_is_fast(store: Store, image: Image) -> None:
    assert store.find(KEY, "oci") == image
    began = time.perf_counter()
    for _ in range(20):
        store.find(KEY, "oci")
    assert (time.perf_counter() - began) / 20 < 0.01


def test_a_damaged_image_is_a_miss_and_told(
    store: Store, image: Image, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for victim in [image.digest, *(one.digest for one in store.opened(image)[0].blobs)]:
        whole = store.blob(victim).read_bytes()
        for body in (whole[:-1], None):
            store.blob(victim).unlink()
            if body is not None:
                store.blob(victim).write_bytes(body)
            assert store.find(KEY, "oci") is None
            assert f"base-amd64 in {store.root} is damaged" in capsys.readouterr().err
        assert store.put_root(
            tmp_path / "root.tar", key=KEY, name="base-amd64", platform=AMD64, labels=image.labels
        ) == store.find(KEY, "oci")


def test_a_lost_index_is_written_again(store: Store, image: Image) -> None:
    right = (store.root / "index.json").read_bytes()
    for wrong in (b'{"schemaVersion":2,"manifests":[]}', b"{", None):
        (store.root / "index.json").unlink()
        if wrong is not None:
            (store.root / "index.json").write_bytes(wrong)
        assert store.find(KEY, "oci") == image
        assert (store.root / "index.json").read_bytes() == right


def test_list_and_show(store: Store, image: Image, tmp_path: Path) -> None:
    (tmp_path / "x.sif").write_bytes(b"sif")
    sif = store.put_sif(tmp_path / "x.sif", key=KEY, name="base-amd64", platform=AMD64)
    assert store.list() == (image, sif)
    shown = store.show(image)
    blobs = sum(path.stat().st_size for path in store.blobs.iterdir())
    assert shown.size == blobs and shown.history == ("root file system",)
    assert store.show(sif).size == 3
    with pytest.raises(InvalidFileError, match="is not in"):
        Store(tmp_path / "other").show(image)


def test_a_store_nobody_may_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "root.tar").write_bytes(tar_of({}))
    with pytest.raises(HostError, match="cannot write to the image store"):
        Store(tmp_path / "file" / "store").put_root(tmp_path / "root.tar", key=KEY, name="x", platform=AMD64)


# -- many at once, and death -----------------------------------------------------------------------


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


# -- what is read ----------------------------------------------------------------------------------


def layout(
    folder: Path, *images: tuple[Platform, dict[str, bytes]], media: str = oci.TAR
) -> list[oci.Descriptor]:
    """An OCI layout with plain layers, as newer `docker save` makes it; entries state no platform."""
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def put(raw: bytes, media_type: str) -> oci.Descriptor:
        (blobs / sha(raw)[7:]).write_bytes(raw)
        return oci.Descriptor(media_type, sha(raw), len(raw))

    entries = []
    for platform, tree in images:
        raw = tar_of(tree)
        config = put(oci.encode(oci.plain_config(platform, sha(raw), "test")), oci.CONFIG)
        packed = gzip.compress(raw) if media.endswith("gzip") else raw
        entries.append(put(oci.encode(oci.Manifest(config, (put(packed, media),))), oci.MANIFEST))
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (folder / "index.json").write_bytes(oci.encode(oci.Index(tuple(entries))))
    return entries


def archived(folder: Path) -> Path:
    out = folder.with_suffix(".tar")
    with tarfile.open(out, "w") as tar:
        tar.add(folder, arcname=".")
    return out


@pytest.mark.parametrize("packed", [False, True])
def test_a_layout_as_a_folder_and_as_an_archive(packed: bool, store: Store, tmp_path: Path) -> None:
    layout(tmp_path / "built", (AMD64, {"x": b"amd"}), (ARM64, {"x": b"arm"}))
    source = archived(tmp_path / "built") if packed else tmp_path / "built"
    for platform in (AMD64, ARM64):
        image = store.put_archive(
            source, key=sha(str(platform).encode())[7:], name=platform.arch, platform=platform
        )
        manifest, config = store.opened(image)
        assert config["architecture"] == platform.arch
        assert [one.media_type for one in manifest.layers] == [oci.GZIP]  # plain layers are packed
        tree = {"x": platform.arch[:3].encode()}
        assert gzip.decompress(store.blob(manifest.layers[0].digest).read_bytes()) == tar_of(tree)


def test_packed_layers_keep_their_bytes(store: Store, tmp_path: Path) -> None:
    entry = layout(tmp_path / "built", (AMD64, {"x": b"y"}), media=oci.GZIP)[0]
    image = store.put_archive(tmp_path / "built", key=KEY, name="same", platform=AMD64)
    assert image.digest == entry.digest


def test_an_index_inside_an_index_with_attestations(store: Store, tmp_path: Path) -> None:
    """As BuildKit writes it: an index of the image and of a manifest that is none."""
    amd = layout(tmp_path / "built", (AMD64, {"x": b"y"}))[0]
    note = oci.Descriptor(
        oci.MANIFEST, sha(b"left out"), 8, platform={"os": "unknown", "architecture": "unknown"},
        annotations={"vnd.docker.reference.type": "attestation-manifest"},
    )  # fmt: skip
    absent = oci.Descriptor(oci.MANIFEST, sha(b"other platform"), 8)
    inner = oci.encode(oci.Index((note, absent, amd)))
    (tmp_path / "built" / "blobs" / "sha256" / sha(inner)[7:]).write_bytes(inner)
    outer = oci.Index((oci.Descriptor(oci.INDEX, sha(inner), len(inner)),))
    (tmp_path / "built" / "index.json").write_bytes(oci.encode(outer))
    assert store.put_archive(tmp_path / "built", key=KEY, name="x", platform=AMD64).platform == AMD64
    with pytest.raises(UnsupportedError, match="has no image for linux/arm64: it has linux/amd64"):
        store.put_archive(tmp_path / "built", key=OTHER, name="y", platform=ARM64)


def docker_saved(path: Path, tree: dict[str, bytes], diff_id: str | None = None) -> Path:
    """As `docker save` before 25 writes it: a layer that repeats is a symlink to the first."""
    raw = tar_of(tree)
    config = oci.plain_config(AMD64, diff_id or sha(raw), "one")
    config["rootfs"]["diff_ids"] *= 2
    body = json.dumps(config).encode()
    entry = {"Config": "c.json", "RepoTags": ["x:latest"], "Layers": ["one/layer.tar", "two/layer.tar"]}
    with tarfile.open(path, "w") as out:
        for name, content in (
            ("c.json", body),
            ("one/layer.tar", raw),
            ("manifest.json", oci.encode([entry])),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            out.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("two/layer.tar")
        link.type, link.linkname = tarfile.SYMTYPE, "../one/layer.tar"
        out.addfile(link)
    return path


def test_docker_save_with_a_repeated_layer(store: Store, tmp_path: Path) -> None:
    image = store.put_archive(
        docker_saved(tmp_path / "x.tar", {"a": b"b"}), key=KEY, name="x", platform=AMD64
    )
    manifest = store.opened(image)[0]
    assert manifest.layers[0] == manifest.layers[1]
    store.write_docker_archive(image, tmp_path / "out.tar")
    with tarfile.open(tmp_path / "out.tar") as tar:
        assert len([one for one in tar.getnames() if one.endswith("layer.tar")]) == 1
        entry = json.load(tar.extractfile("manifest.json"))[0]  # type: ignore[arg-type]
        assert entry["RepoTags"] == ["x:latest"]
        bodies = [tar.extractfile(name).read() for name in entry["Layers"]]  # type: ignore[union-attr]
    assert bodies == [tar_of({"a": b"b"})] * 2


def broken(tmp_path: Path) -> Iterator[tuple[Path, type[Exception], str]]:
    yield docker_saved(tmp_path / "lie.tar", {"a": b"b"}, sha(b"no")), HashMismatchError, "expected sha256"
    (tmp_path / "text").write_text("hello\n" * 200)
    yield tmp_path / "text", InvalidFileError, "not a tar archive"
    yield tmp_path / "nothing", InvalidFileError, "No such file"
    (tmp_path / "plain.tar").write_bytes(tar_of({"x": b"y"}))
    yield tmp_path / "plain.tar", InvalidFileError, "neither oci-layout"
    whole = docker_saved(tmp_path / "whole.tar", {"a": b"b" * 2000})
    (tmp_path / "cut.tar").write_bytes(whole.read_bytes()[:2500])
    yield tmp_path / "cut.tar", InvalidFileError, "cut.tar"
    layout(tmp_path / "lied", (AMD64, {"x": b"y"}), media=oci.GZIP)
    for blob in (tmp_path / "lied" / "blobs" / "sha256").iterdir():
        if blob.read_bytes().startswith(b"\x1f\x8b"):
            blob.write_bytes(gzip.compress(b"other"))
    yield tmp_path / "lied", HashMismatchError, "expected sha256"
    layout(
        tmp_path / "foreign", (AMD64, {"x": b"y"}), media="application/vnd.docker.image.rootfs.foreign.diff"
    )
    yield tmp_path / "foreign", UnsupportedError, "expected tar, tar"
    (tmp_path / "noindex").mkdir()
    (tmp_path / "noindex" / "oci-layout").write_text("{}")
    (tmp_path / "noindex" / "index.json").write_text("{")
    yield tmp_path / "noindex", InvalidFileError, "index.json is not valid"


def test_what_is_broken_is_named_and_not_put(store: Store, tmp_path: Path) -> None:
    for path, kind, words in broken(tmp_path):
        with pytest.raises(kind, match=words):
            store.put_archive(path, key=KEY, name="x", platform=AMD64)
        assert store.find(KEY, "oci") is None and store.list() == ()


def test_an_archive_of_another_platform_is_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="one image for linux/arm64: it has linux/amd64"):
        store.put_archive(docker_saved(tmp_path / "x.tar", {}), key=KEY, name="x", platform=ARM64)


def test_layers_are_opened_only_inside_the_block(tmp_path: Path) -> None:
    with archives.reading(docker_saved(tmp_path / "x.tar", {"a": b"b"}), AMD64) as found:
        assert found.layers[0].open().read() == tar_of({"a": b"b"})
    with pytest.raises((ValueError, OSError)):
        found.layers[0].open().read()


def put_large(root: Path, tar: Path, answer: Any) -> None:
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    store = Store(root)
    image = store.put_root(tar, key=KEY, name="large", platform=AMD64)
    store.write_docker_archive(image, tar.with_name("saved.tar"))
    store.put_archive(tar.with_name("saved.tar"), key=OTHER, name="again", platform=AMD64)
    answer.put(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


def test_memory_stays_flat(tmp_path: Path) -> None:
    """100 MB (of nothing, in a sparse file) through all three ways need less than a third of that."""
    member = tarfile.TarInfo("large")
    member.size = 100 * 2**20
    with (tmp_path / "root.tar").open("wb") as file:
        file.write(member.tobuf())
        file.truncate(512 + member.size + 1024)
    answer = FORK.Queue()
    child = FORK.Process(target=put_large, args=(tmp_path / "store", tmp_path / "root.tar", answer))
    child.start()
    assert answer.get(timeout=120) < 30 * 1024  # KiB
    child.join(60)
    shutil.rmtree(tmp_path / "store")
    for path in tmp_path.glob("*.tar"):
        path.unlink()
