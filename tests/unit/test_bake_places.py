"""Layouts and archives as the places that bases come from and baked images go to."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import shutil
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from image_cache import bake, docker_archive, oci
from image_cache.answers import BlobsMissingError
from image_cache.bake import Added
from image_cache.blobs import Blobs
from image_cache.oci import Artifact, Descriptor
from image_cache.places import Origin, Remembered, Target, finding
from image_cache.unfit import TagTakenError, WrongPlatformError
from kit.errors import HashMismatchError, HostError, InvalidFileError, NotFoundError, UnsupportedError
from kit.nouns import Platform, digest

AMD64, ARM64 = Platform("amd64"), Platform("arm64")


def tar_of(name: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        member = tarfile.TarInfo(name)
        member.size = 3000
        tar.addfile(member, io.BytesIO(random.Random(name).randbytes(3000)))
    return out.getvalue()


def artifact(folder: Path, name: str) -> Artifact:
    raw = gzip.compress(tar_of(name), mtime=0)
    path = folder / f"layer {name}"
    path.write_bytes(raw)
    return Artifact(
        key=hashlib.sha256(name.encode()).hexdigest(), digest=digest(raw), diff_id=digest(tar_of(name)),
        size=len(raw), media_type=oci.GZIP, path=path, name=name,
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / 'a "folder" of ours'
    made.mkdir()
    return made


@pytest.fixture
def added(folder: Path) -> Added:
    return Added(platform=AMD64, gzip=artifact(folder, "big"), tiny=artifact(folder, "tiny"))


def put(root: Path, *names: str, arch: str = "amd64") -> Descriptor:
    """An image in the blobs of a layout: a layer for each name."""
    blobs = Blobs(root)
    plain = [tar_of(name) for name in names]
    config: dict[str, Any] = {
        "os": "linux", "architecture": arch, "config": {},
        "rootfs": {"type": "layers", "diff_ids": [digest(one) for one in plain]},
    }  # fmt: skip
    layers = tuple(blobs.put_blob([gzip.compress(one, mtime=0)], oci.GZIP) for one in plain)
    made = oci.Manifest(blobs.put_blob([oci.encode(config)], oci.CONFIG), layers)
    return blobs.put_blob([oci.encode(made)], oci.MANIFEST)


def named(of: Descriptor, name: str = "", **platform: str) -> dict[str, Any]:
    table: dict[str, Any] = {"mediaType": of.media_type, "digest": of.digest, "size": of.size}
    if name:
        table["annotations"] = {oci.REF_NAME: name, "kept": "yes"}
    return {**table, "platform": platform} if platform else table


def layout(root: Path, *entries: dict[str, Any]) -> Path:
    (root / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (root / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": entries, "own": "field"}))
    return root


def packed(root: Path, file: Path) -> Path:
    with tarfile.open(file, "w") as tar:
        tar.add(root, "./")
    return file


def baked(origin: Origin, target: Target, added: Added, at: str = "some/base") -> bake.Baked:
    source = finding.source(origin)
    got = source.image(origin, AMD64)
    made = bake.as_oci(bake.planned(got.manifest, got.config, f"{origin}", got.digest, added))
    assert bake.do(made, source, origin, target, at, Remembered()).digest == made.digest
    return made


def assert_there(root: Path, made: bake.Baked, name: str) -> None:
    """Named in the index, and every blob is what its digest says."""
    entries = json.loads((root / "index.json").read_bytes())["manifests"]
    found = [one for one in entries if one.get("annotations", {}).get(oci.REF_NAME) == name]
    assert [one["digest"] for one in found] == [made.digest]
    blobs = Blobs(root)
    for blob in oci.manifest(blobs.read(made.digest), name).blobs:
        assert len(blobs.read(blob.digest)) == blob.size


@pytest.mark.parametrize("kind", ["oci", "oci-archive"])
@pytest.mark.parametrize("name", ["", ":v1"])
def test_from_a_layout_to_a_layout(folder: Path, added: Added, kind: str, name: str) -> None:
    image = put(folder / "in", "one", "two")
    path = layout(folder / "in", named(image, "v1"))
    place = packed(path, folder / "in.tar") if kind == "oci-archive" else path
    origin = Origin.parse(f"{kind}:{place}{name}")
    seen = finding.source(origin).look(origin)
    assert seen and (seen.digest, seen.media_type) == (image.digest, oci.MANIFEST)
    target = finding.target(f"oci:{folder}/out")
    made = baked(origin, target, added)
    assert_there(folder / "out", made, f"some/base:{made.tag}")
    assert target.find("some/base", made.tag) == made.digest
    assert target.labels("some/base", made.digest)[bake.BASE_DIGEST] == image.digest
    assert finding.target(f"oci:{folder}/out").find("some/base", "other") is None


def test_names_of_others_in_a_layout_stay(folder: Path, added: Added) -> None:
    path = layout(folder / "in", named(put(folder / "in", "one"), "v1"), named(put(folder / "in", "two")))
    before = json.loads((path / "index.json").read_bytes())
    baked(Origin.parse(f"oci:{path}:v1"), finding.target(f"oci:{path}"), added)
    after = json.loads((path / "index.json").read_bytes())
    assert after["manifests"][:2] == before["manifests"] and len(after["manifests"]) == 3
    assert after["own"] == "field"


def test_a_name_of_somebody_else_in_a_layout_is_not_touched(folder: Path, added: Added) -> None:
    origin = Origin.parse(f"oci:{layout(folder / 'in', named(put(folder / 'in', 'one'), 'v1'))}")
    made = baked(origin, finding.target(f"oci:{folder}/out"), added)
    theirs = named(put(folder / "out", "theirs"), f"some/base:{made.tag}")
    layout(folder / "out", theirs)
    with pytest.raises(TagTakenError):
        baked(origin, finding.target(f"oci:{folder}/out"), added)
    assert json.loads((folder / "out/index.json").read_bytes())["manifests"] == [theirs]


def test_many_threads_put_into_one_layout(folder: Path, added: Added) -> None:
    images = [named(put(folder / "in", f"own {each}"), f"v{each}") for each in range(24)]
    path = layout(folder / "in", *images)
    target = finding.target(f"oci:{folder}/out")

    def one(each: int) -> bake.Baked:
        return baked(Origin.parse(f"oci:{path}:v{each}"), target, added, f"some/base-{each}")

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(one, range(24)))
    for each, image in enumerate(made):
        assert_there(folder / "out", image, f"some/base-{each}:{image.tag}")
    assert not list((folder / "out").rglob("*.tmp"))


def test_an_archive_is_written_at_the_end_and_keeps_what_it_held(folder: Path, added: Added) -> None:
    origin = Origin.parse(f"oci:{layout(folder / 'in', named(put(folder / 'in', 'one'), 'v1'))}")
    file = folder / "out.tar"
    target = finding.target(f"oci-archive:{file}")
    first = baked(origin, target, added, "first")
    assert not file.exists()
    target.close()
    target.close()
    raw = file.read_bytes()
    target = finding.target(f"oci-archive:{file}")
    assert target.find("first", first.tag) == first.digest
    second = baked(origin, target, added, "second")
    assert file.read_bytes() == raw  # until it is closed
    target.close()
    for name, made in (("first", first), ("second", second)):
        here = Origin.parse(f"oci-archive:{file}:{name}:{made.tag}")
        assert finding.source(here).image(here, AMD64).digest == made.digest
    assert sorted(each.name for each in folder.iterdir() if each.name.startswith(".")) == []


def test_equal_images_give_equal_archives(folder: Path, added: Added) -> None:
    origin = Origin.parse(f"oci:{layout(folder / 'in', named(put(folder / 'in', 'one'), 'v1'))}")
    for name in ("a.tar", "b.tar"):
        target = finding.target(f"oci-archive:{folder / name}")
        baked(origin, target, added)
        target.close()
    assert (folder / "a.tar").read_bytes() == (folder / "b.tar").read_bytes()


def test_several_platforms_under_one_name_or_in_an_index(folder: Path) -> None:
    root = folder / "in"
    both = {arch: put(root, arch, arch=arch) for arch in ("amd64", "arm64")}
    entries = [named(one, "v1", os="linux", architecture=arch) for arch, one in both.items()]
    index = Blobs(root).put_blob([json.dumps({"schemaVersion": 2, "manifests": entries}).encode()], oci.INDEX)
    layout(root, *entries, named(index, "both"))
    for name in ("v1", "both"):
        origin = Origin.parse(f"oci:{root}:{name}")
        source = finding.source(origin)
        seen = source.look(origin)
        assert seen and seen.media_type == oci.INDEX
        for arch, one in both.items():
            assert source.image(origin.at(seen.digest), Platform(arch)).digest == one.digest
    only = Origin.parse(f"oci:{layout(root, entries[0])}:v1")
    with pytest.raises(WrongPlatformError):
        finding.source(only).image(only, ARM64)


def test_what_is_not_there_or_damaged(folder: Path, added: Added) -> None:
    root = layout(
        folder / "in", named(put(folder / "in", "one"), "v1"), named(put(folder / "in", "two"), "v2")
    )
    gone = Origin.parse(f"oci:{root}:nothing")
    assert finding.source(gone).look(gone) is None
    with pytest.raises(NotFoundError, match="does not exist"):
        finding.source(gone).image(gone, AMD64)
    unsaid = Origin.parse(f"oci:{root}")
    with pytest.raises(InvalidFileError, match="several images for linux/amd64: say which"):
        finding.source(unsaid).image(unsaid, AMD64)
    nowhere = Origin.parse(f"oci:{folder}/nowhere:v1")
    with pytest.raises(NotFoundError):
        finding.source(nowhere).look(nowhere)
    origin = Origin.parse(f"oci:{root}:v1")
    got = finding.source(origin).image(origin, AMD64)
    layer = oci.manifest(got.manifest, "it").layers[0]
    Blobs(root).blob(layer.digest).write_bytes(b"x" * layer.size)
    with pytest.raises(HashMismatchError):
        baked(origin, finding.target(f"oci:{folder}/out"), added)
    assert not (folder / "out/index.json").exists()


def test_a_manifest_whose_blobs_are_not_there_is_not_put(folder: Path) -> None:
    source = finding.source(origin := Origin.parse(f"oci:{folder}/in"))
    layout(folder / "in", named(put(folder / "in", "one")))
    got = source.image(origin, AMD64)
    target = finding.target(f"oci:{folder}/out")
    with pytest.raises(BlobsMissingError):
        target.put("a", "b", got.manifest, oci.MANIFEST)


def test_a_layout_that_cannot_be_written_is_told_by_its_name(folder: Path, added: Added) -> None:
    origin = Origin.parse(f"oci:{layout(folder / 'in', named(put(folder / 'in', 'one'), 'v1'))}")
    (folder / "file").write_text("no folder")
    with pytest.raises(HostError, match=r"cannot write to .*/file/out: Not a directory") as told:
        baked(origin, finding.target(f"oci:{folder}/file/out"), added)
    assert told.value.hint and "SLIPWORKS_CACHE" not in told.value.hint


def docker_save(folder: Path, file: Path, *names: str) -> list[str]:
    """As `docker save` before 25 writes it: plain tars, one of them a link to another."""
    image = put(folder / "blobs", *names)
    blobs = Blobs(folder / "blobs")
    manifest = oci.manifest(blobs.read(image.digest), "it")
    config = oci.config(blobs.read(manifest.config.digest), "it")
    docker_archive.write(blobs, "name", manifest, config, file)
    return oci.diff_ids(config, "it")


def test_from_what_docker_save_writes(folder: Path, added: Added) -> None:
    ids = docker_save(folder, folder / "saved.tar", "one", "two")
    origin = Origin.parse(f"docker-archive:{folder}/saved.tar:name:latest")
    source = finding.source(origin)
    seen = source.look(origin)
    assert seen and seen.media_type == oci.DOCKER_MANIFEST
    assert source.image(origin.at(seen.digest), AMD64).digest == seen.digest
    made = baked(origin, finding.target(f"oci:{folder}/out"), added)
    assert_there(folder / "out", made, f"some/base:{made.tag}")
    layers = json.loads(made.manifest)["layers"]
    assert [one["digest"] for one in layers[:2]] == ids  # unpacked as they are: a tar's digest is its diff_id
    other = Origin.parse(f"docker-archive:{folder}/saved.tar:other:latest")
    assert source.look(other) is None
    with pytest.raises(WrongPlatformError):
        source.image(origin, ARM64)


def test_links_and_packed_layers_in_an_archive(folder: Path, added: Added) -> None:
    plain, raw = tar_of("one"), gzip.compress(tar_of("two"), mtime=0)
    config = json.dumps({
        "os": "linux", "architecture": "amd64",
        "rootfs": {"diff_ids": [digest(plain), digest(tar_of("two")), digest(plain)]},
    }).encode()  # fmt: skip
    layers = ["a/layer.tar", "blobs/sha256/packed", "b/layer.tar"]
    told = json.dumps([{"Config": "c.json", "RepoTags": None, "Layers": layers}]).encode()
    with tarfile.open(folder / "x.tar", "w") as tar:
        for name, body in ((layers[0], plain), (layers[1], raw), ("c.json", config), ("manifest.json", told)):
            member = tarfile.TarInfo(name)
            member.size = len(body)
            tar.addfile(member, io.BytesIO(body))
        link = tarfile.TarInfo(layers[2])
        link.type, link.linkname = tarfile.SYMTYPE, "../a/layer.tar"
        tar.addfile(link)
    made = baked(Origin.parse(f"docker-archive:{folder}/x.tar"), finding.target(f"oci:{folder}/out"), added)
    kinds = [
        one["mediaType"].replace("+", ".").rpartition(".")[2] for one in json.loads(made.manifest)["layers"]
    ]
    assert kinds == ["tar", "gzip", "tar", "gzip", "gzip"]
    assert_there(folder / "out", made, f"some/base:{made.tag}")


def test_archives_that_are_none(folder: Path) -> None:
    ids = docker_save(folder, folder / "saved.tar", "one")
    assert ids
    with gzip.open(folder / "saved.tar.gz", "wb") as out, (folder / "saved.tar").open("rb") as raw:
        shutil.copyfileobj(raw, out)
    packed_one = Origin.parse(f"docker-archive:{folder}/saved.tar.gz")
    with pytest.raises(InvalidFileError, match="no plain tar archive") as told:
        finding.source(packed_one).look(packed_one)
    assert told.value.hint and told.value.hint.startswith("gunzip")
    with pytest.raises(InvalidFileError, match="is no OCI archive"):
        finding.target(f"oci-archive:{folder}/saved.tar")
    with pytest.raises(UnsupportedError, match="docker-archive"):
        finding.target(f"docker-archive:{folder}/x.tar")
    (folder / "store/refs").mkdir(parents=True)
    with pytest.raises(InvalidFileError, match="is this kit's own store"):
        finding.target(f"oci:{folder}/store")


@pytest.mark.parametrize(
    ("text", "kind", "repository", "tag"),
    [
        ("python:3.12", "registry", "library/python", "3.12"),
        ("localhost:5000/a/b", "registry", "a/b", "latest"),
        ("oci:/some/My Layout", "oci", "my-layout", None),
        ("oci:/some/layout:a/b:c", "oci", "layout", "a/b:c"),
        ("oci-archive:/some/x.tar", "oci-archive", "x", None),
        ("docker-archive:/x_y.tar:n:t", "docker-archive", "x-y", "n:t"),
        (f"oci:/l:n@sha256:{'1' * 64}", "oci", "l", "n"),
    ],
)
def test_how_a_base_is_called(text: str, kind: str, repository: str, tag: str | None) -> None:
    origin = Origin.parse(text)
    assert (origin.kind, origin.repository, origin.tag) == (kind, repository, tag)
    assert Origin.parse(f"{origin}") == origin
