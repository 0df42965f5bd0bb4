"""What engines write is read whole, for the platform that is asked, or refused by name."""

from __future__ import annotations

import gzip
import io
import json
import multiprocessing
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from image_cache import archives, oci, streams
from image_cache.store import Store
from kit.errors import HashMismatchError, InvalidFileError, UnsupportedError
from kit.nouns import Platform
from tests.unit.parts_images import AMD64, ARM64, KEY, OTHER, sha, tar_of

FORK = multiprocessing.get_context("fork")


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
        assert [one.media_type for one in manifest.layers] == [oci.ZSTD]  # plain layers are packed
        tree = {"x": platform.arch[:3].encode()}
        with store.blob(manifest.layers[0].digest).open("rb") as file:
            assert b"".join(streams.unpacked(file, oci.ZSTD, "it")) == tar_of(tree)


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
