"""What is put into the store is right for any tree of files and any cut of bytes, and is found again."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import time
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from image_cache import oci, streams
from image_cache.oci import Artifact
from image_cache.store import Store
from kit.errors import HashMismatchError, HostError, InvalidFileError, UnsupportedError
from kit.nouns import Image
from tests.unit.parts_images import AMD64, ARM64, KEY, OTHER, fresh, sha, tar_of

FEW = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

# Names as people and archives have them: spaces, quotes, newlines, dots, letters of any script.
names = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=20)
trees = st.dictionaries(
    names.filter(lambda name: name not in (".", "..")), st.binary(max_size=2000), max_size=5
)


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
            assert [unpacked(store, one) for one in manifest.layers] == tars
            assert len([one for one in config["history"] if not one.get("empty_layer")]) == len(tars)
            assert all(sha(store.blob(one.digest).read_bytes()) == one.digest for one in manifest.blobs)
            assert all(store.blob(one.digest).stat().st_size == one.size for one in manifest.blobs)
            assert store.find(KEY, "oci") == image
            digests.append(image.digest)
    assert digests[0] == digests[1]


def unpacked(store: Store, layer: oci.Descriptor) -> bytes:
    assert layer.media_type == oci.ZSTD
    with store.blob(layer.digest).open("rb") as file:
        return zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True).read()


def appended(store: Store, folder: Path, base: dict[str, bytes], layers: list[dict[str, bytes]]) -> Image:
    (folder / "base.tar").write_bytes(tar_of(base, "base"))
    root = store.put_root(folder / "base.tar", key=OTHER, name="root", platform=AMD64)
    artifacts = []
    for number, tree in enumerate(layers):
        (folder / "layer.tar").write_bytes(tar_of(tree))
        artifacts.append(store.put_artifact(f"{number}" * 64, folder / "layer.tar"))
    return store.put_on(root, artifacts, key=KEY, name="it", env_path="/slipworks/bin")


@FEW
@given(st.binary(max_size=5000), st.lists(st.integers(0, 5000), max_size=6), st.integers(1, 600))
def test_packing_does_not_depend_on_how_bytes_come(raw: bytes, cuts: list[int], member: int) -> None:
    edges = [0, *sorted(cuts), len(raw)]
    cut = [raw[a:b] for a, b in itertools.pairwise(edges)]
    before, streams.FRAME = streams.FRAME, member
    try:
        seen, again = streams.Hash(), streams.Hash()
        packed = b"".join(streams.packed(cut, seen))
        assert packed == b"".join(streams.packed([raw], again))
    finally:
        streams.FRAME = before
    assert seen.digest == again.digest == sha(raw) and seen.size == len(raw)
    assert b"".join(streams.unpacked(io.BytesIO(packed), oci.ZSTD, "it")) == raw


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


def test_the_base_keeps_its_path_labels_and_history(store: Store, image: Image) -> None:
    more = store.put_on(
        image, [], key=KEY[:-1] + "9", name="more", labels={"a": "b"}, env_path="/slipworks/bin"
    )
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


@pytest.mark.parametrize(
    "body", [b"no tar", b"#!/bin/sh\n" * 100, gzip.compress(b"no tar" * 200)], ids=["short", "long", "packed"]
)
def test_what_is_no_tar_is_no_layer(body: bytes, store: Store, tmp_path: Path) -> None:
    (tmp_path / "layer").write_bytes(body)
    with pytest.raises(InvalidFileError, match="not a tar archive"):
        store.put_artifact(KEY, tmp_path / "layer")
    assert not store.blobs.exists() or not list(store.blobs.iterdir())


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


def test_list(store: Store, image: Image, tmp_path: Path) -> None:
    (tmp_path / "x.sif").write_bytes(b"sif")
    sif = store.put_sif(tmp_path / "x.sif", key=KEY, name="base-amd64", platform=AMD64)
    assert store.list() == (image, sif)
    assert store.size(image) == sum(path.stat().st_size for path in store.blobs.iterdir())
    assert store.size(sif) == 3
    assert store.opened(image)[1]["history"][0]["created_by"] == "root file system"


def test_a_store_nobody_may_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "root.tar").write_bytes(tar_of({}))
    with pytest.raises(HostError, match="cannot write to the image store"):
        Store(tmp_path / "file" / "store").put_root(tmp_path / "root.tar", key=KEY, name="x", platform=AMD64)
