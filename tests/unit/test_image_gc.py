"""What gc removes, what it keeps, and what happens when it is not alone."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import tempfile
import time
from pathlib import Path

import msgspec
import pytest

from image_cache import garbage, gc, oci, stamps
from image_cache.claim import Owner
from image_cache.store import KEEP_DAYS, Store
from kit.errors import HostError, InvalidFileError
from kit.nouns import Image
from tests.unit.parts_images import AMD64, KEY, OTHER, sha, tar_of

FORK = multiprocessing.get_context("fork")


def aged(path: Path, days: float) -> None:
    """Everything below was last written, and last wanted, that many days ago."""
    then = time.time() - days * 86400
    for each in [*path.rglob("*"), path]:
        os.utime(each, (then, then), follow_symlinks=False)


def used(store: Store, image: Image, days: float = 0) -> None:
    then = time.time() - days * 86400
    os.utime(store.records.path(image.key, image.format), (then, then))


def made(store: Store, name: str, base: Image | None = None, **tree: bytes) -> Image:
    """An image on a base, with a layer of its own."""
    key = sha(name.encode())[7:]
    layer = store.put_tar(key, [tar_of(tree or {name: os.urandom(30_000)})], name=f"stack {name}")
    if base is None:
        config = oci.plain_config(AMD64, layer.diff_id, "it")
        return store.put_image(config, [layer.descriptor], key=key, name=name, platform=AMD64)
    return store.put_on(base, [layer], key=key, name=name)


def names(store: Store) -> set[str]:
    return {image.name for image in store.list()}


def indexed(store: Store) -> set[str]:
    index = json.loads((store.root / "index.json").read_text())
    return {one["annotations"][oci.REF_NAME] for one in index["manifests"]}


def swept(store: Store, days: float = KEEP_DAYS) -> int:
    return gc.collect(store, garbage.plan(store, days))


def bytes_of(root: Path) -> int:
    return sum(each.stat().st_size for each in root.rglob("*") if each.is_file())


def seen(root: Path) -> dict[Path, tuple[float, int]]:
    return {each: (each.lstat().st_mtime, each.lstat().st_size) for each in root.rglob("*")}


def test_recent_and_pinned_stay(store: Store) -> None:
    base = made(store, "base")
    images = {name: made(store, name, base) for name in ("old", "pinned", "used")}
    aged(store.root, 20)
    store.pins.put(images["pinned"].key, "oci")
    used(store, images["used"], days=13)
    before = bytes_of(store.root)
    plan = garbage.plan(store, KEEP_DAYS)
    there = seen(store.root)
    again = garbage.plan(store, KEEP_DAYS)
    assert [each.path for each in again.garbage] == [each.path for each in plan.garbage]
    assert seen(store.root) == there  # a look changes nothing
    assert {each.name for each in plan.garbage if each.kind == "image"} == {"old (oci)"}
    freed = gc.collect(store, plan)
    # The base costs no space beside those that stand on it, and would have to be made again.
    assert names(store) == {"base", "pinned", "used"} == indexed(store)
    assert all(store.damaged(image) == [] for image in store.list())
    assert store.artifact(images["used"].key) and store.artifact(base.key)
    assert store.artifact(images["old"].key) is None
    assert 30_000 < freed == plan.freed <= before - bytes_of(store.root)
    store.pins.drop(images["pinned"].key, "oci")
    aged(store.root, 15)
    swept(store)
    assert names(store) == set() == indexed(store)
    assert list(store.blobs.iterdir()) == [] and not list((store.root / "artifacts").iterdir())


def test_what_was_asked_for_is_recent(store: Store) -> None:
    image, other = made(store, "one"), made(store, "two")
    aged(store.root, 20)
    assert store.find(image.key, "oci") == image and store.artifact(other.key)
    swept(store)
    assert names(store) == {"one"} | {"two"}  # all of the second image's layers are the artifact's
    assert store.damaged(image) == [] == store.damaged(other)


def test_a_hit_writes_at_most_once_in_a_quarter_of_an_hour(store: Store, image: Image) -> None:
    record = store.records.path(image.key, "oci")
    before = record.stat()
    assert store.find(image.key, "oci")
    assert record.stat().st_mtime_ns == before.st_mtime_ns
    aged(record, 1 / 24)
    raw, inode = record.read_bytes(), record.stat().st_ino
    assert store.find(image.key, "oci")
    assert time.time() - record.stat().st_mtime < 60
    assert (record.read_bytes(), record.stat().st_ino) == (raw, inode)  # not written anew


def test_sifs_go_with_their_records_and_what_lies_beside(store: Store, tmp_path: Path) -> None:
    for name, key in (("old", KEY), ("new", OTHER)):
        (tmp_path / "x").write_bytes(b"sif")
        store.put_sif(tmp_path / "x", key=key, name=name, platform=AMD64)
        (store.sif_folder / f"{name}.sif.json").write_text("{}")
    (store.sif_folder / "nobodys.sif").write_text("x")
    aged(store.root, 20)
    (store.sif_folder / "unfinished.sif").write_text("x")
    assert store.find(OTHER, "sif")
    swept(store)
    assert {each.name for each in store.sif_folder.iterdir()} == {"new.sif", "new.sif.json", "unfinished.sif"}


def test_a_sifs_name_is_taken_whole(store: Store, tmp_path: Path) -> None:
    """Names may hold dots, and `.sif` too: a pinned one stays with all its files, one of a like name goes."""
    for name, key in (("tool.sif-1", KEY), ("tool", OTHER)):
        (tmp_path / "x").write_bytes(b"sif")
        store.put_sif(tmp_path / "x", key=key, name=name, platform=AMD64)
        for end in (".json", ".cdx.json"):
            (store.sif_folder / f"{name}.sif{end}").write_text("{}")
    store.pins.put(KEY, "sif")
    aged(store.root, 20)
    stays = {f"tool.sif-1.sif{end}" for end in ("", ".json", ".cdx.json")}
    plan = garbage.plan(store, KEEP_DAYS)
    assert not {each.name for each in plan.garbage} & stays
    swept(store)
    assert {each.name for each in store.sif_folder.iterdir()} == stays
    (tmp_path / "x").write_bytes(b"sif")
    store.put_sif(tmp_path / "x", key=OTHER, name="tool", platform=AMD64)
    store.pins.drop(KEY, "sif")
    aged(store.root, 20)
    plan = garbage.plan(store, KEEP_DAYS)
    store.find(KEY, "sif")  # asked for after the look
    gc.collect(store, plan)
    assert {each.name for each in store.sif_folder.iterdir()} == stays


def test_notes_go_with_what_they_are_of(store: Store) -> None:
    old, new = made(store, "old"), made(store, "new")
    of = [old.digest, new.digest, store.artifact(old.key).diff_id, store.artifact(new.key).diff_id]  # type: ignore[union-attr]
    for digest in of:
        store.put_note(digest, "inventory", b"x")
    aged(store.root, 20)
    used(store, new)
    swept(store)
    assert [store.note(digest, "inventory") for digest in of] == [None, b"x", None, b"x"]


def test_young_blobs_may_be_a_builds(store: Store, image: Image) -> None:
    for number, hours in enumerate((0.5, 2, 30)):
        blob = store.put_blob([b"%d" % number], oci.TAR)
        aged(store.blob(blob.digest), hours / 24)
    left = store.blobs / ".incoming.1-aa.tmp"
    left.write_bytes(b"half")
    aged(left, 2 / 24)
    building = store.claims / f"{KEY}.oci"
    another_host(building)
    assert {each.size for each in garbage.plan(store, 0).garbage} == {1}  # while somebody builds: the oldest
    aged(building, 0.5)
    kinds = [each.kind for each in garbage.plan(store, 0).garbage]
    assert sorted(kinds) == ["blob", "blob", "partial"]
    swept(store, 0)
    assert not left.exists() and len(list(store.blobs.iterdir())) == 1 + 3
    aged(building, 2)
    swept(store, 0)
    assert not building.exists()


def another_host(folder: Path) -> None:
    folder.mkdir(parents=True)
    owner = Owner(host="gpu17", pid=1, started=1, machine="another boot")
    (folder / "1").write_bytes(msgspec.json.encode(owner).ljust(512))


def test_what_is_wanted_after_the_look_stays(store: Store) -> None:
    old, hit, kept, again = (made(store, name) for name in ("old", "hit", "kept", "again"))
    aged(store.root, 20)
    plan = garbage.plan(store, KEEP_DAYS)
    assert len([each for each in plan.garbage if each.kind == "image"]) == 4
    assert store.find(hit.key, "oci")
    assert store.artifact(kept.key)
    layers = store.opened(again)[0].layers
    assert all(store.keep(layer) for layer in layers)  # a pull finds the blob there, and goes on
    gc.collect(store, plan)
    assert names(store) == {"hit"} == indexed(store) and store.damaged(hit) == []
    assert store.artifact(kept.key) and all(store.has(layer) for layer in layers)
    assert not store.has(oci.Descriptor(oci.MANIFEST, old.digest, 1))
    assert not list(store.root.rglob(".*"))


def test_an_image_put_after_the_look_keeps_its_blobs(store: Store) -> None:
    old = made(store, "old")
    manifest, config = store.opened(old)
    aged(store.root, 20)
    plan = garbage.plan(store, KEEP_DAYS)
    put = store.put_image(config, manifest.layers, key=OTHER, name="new", platform=AMD64)
    aged(store.blobs, 20)  # as if the marks had not been seen: the record alone must do
    gc.collect(store, plan)
    assert names(store) == {"new"} and store.damaged(put) == []


def test_what_was_moved_by_a_killed_gc_comes_back(store: Store) -> None:
    image = made(store, "it")
    blob = store.blob(store.opened(image)[0].layers[0].digest)
    blob.rename(blob.with_name(f".gc.{blob.name}.0123abcd.tmp"))
    assert store.find(image.key, "oci") is None
    swept(store)
    assert store.find(image.key, "oci") == image and store.damaged(image) == []


def test_a_record_that_nobody_understands_stops_it(store: Store) -> None:
    made(store, "old")
    aged(store.root, 20)
    (store.root / "refs" / "x.new.json").write_text('{"from": "the future"}')
    before = seen(store.root)
    with pytest.raises(InvalidFileError, match="nothing was removed"):
        swept(store)
    assert {k: v for k, v in seen(store.root).items() if k != store.root} == {
        k: v for k, v in before.items() if k != store.root
    }


def test_an_image_that_is_damaged_does_not_stop_it(store: Store) -> None:
    image = made(store, "old")
    store.blob(image.digest).write_bytes(b"flipped")
    aged(store.root, 20)
    swept(store)
    assert names(store) == set() and list(store.blobs.iterdir()) == []


def test_what_may_not_be_removed_is_told(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    made(store, "old")
    aged(store.root, 20)
    rename = Path.rename

    def closed(path: Path, to: Path) -> Path:
        if path.parent == store.blobs:
            raise PermissionError(13, "Permission denied", str(path))
        return rename(path, to)

    monkeypatch.setattr(Path, "rename", closed)
    with pytest.raises(HostError, match="3 files could not be removed"):
        swept(store)
    assert names(store) == set() == indexed(store)


def test_scratch_of_killed_builds(store: Store, image: Image, tmp_path: Path) -> None:
    for name in ("old", "living"):
        (tmp_path / "scratch" / name / "deep").mkdir(parents=True)
        (tmp_path / "scratch" / name / "deep" / "file").write_bytes(b"x" * 1000)
    aged(tmp_path / "scratch", 2)
    (tmp_path / "scratch" / "living" / "deep" / "more").write_text("")
    os.link(tmp_path / "scratch/old/deep/file", tmp_path / "scratch/old/deep/link")  # as uv's are
    os.utime(tmp_path / "scratch/old/deep", (0, 0))
    plan = garbage.plan(store, 14, tmp_path / "scratch")
    assert [each.name for each in plan.garbage] == ["old"] and plan.freed < 13_000
    gc.collect(store, plan)
    assert [each.name for each in (tmp_path / "scratch").iterdir()] == ["living"]


def nobody_removes(answer: object) -> None:
    """As a user whom modes hold, which they do not hold root."""
    if os.geteuid() == 0:
        os.setgid(65534)
        os.setuid(65534)
    with tempfile.TemporaryDirectory(prefix="slipworks-test-") as folder:
        store, scratch = Store(Path(folder, "store")), Path(folder, "scratch")
        closed, elsewhere = scratch / "build-x" / "root" / "usr" / "share", Path(folder, "elsewhere")
        closed.mkdir(parents=True)
        elsewhere.mkdir(mode=0o500)
        (closed / "file").write_text("x")
        (closed / "link").symlink_to(elsewhere)
        store.put_blob([b"x"], oci.TAR)
        aged(scratch, 2)
        for each, mode in ((closed, 0o500), (closed.parent, 0), (scratch / "build-x", 0o500)):
            each.chmod(mode)
        try:
            gc.collect(store, garbage.plan(store, 14, scratch))
            answer.put(([*scratch.iterdir()], elsewhere.stat().st_mode & 0o777))  # type: ignore[attr-defined]
        except HostError as bad:
            answer.put(bad.message)  # type: ignore[attr-defined]
        finally:
            subprocess.run(["chmod", "-R", "u+rwx", folder], check=True)


def test_scratch_with_folders_that_nobody_may_write(tmp_path: Path) -> None:
    answer = FORK.Queue()
    child = FORK.Process(target=nobody_removes, args=(answer,))
    child.start()
    assert answer.get(timeout=60) == ([], 0o500)
    child.join(60)


def test_of_the_wheelhouse_only_what_was_left_unfinished(store: Store, image: Image, tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    stay = ["ab/x.whl", "records/k.json", "cd/.y.whl.1-a.tmp", "claims/new/1", "ab/.hidden"]
    go = ["ab/.x.whl.1-a.tmp", "records/.k.json.1-b.tmp", "claims/old/1"]
    for name in (*stay, *go):
        (wheels / name).parent.mkdir(parents=True, exist_ok=True)
        (wheels / name).write_text("x")
    aged(wheels, 2)
    for name in ("cd/.y.whl.1-a.tmp", "claims/new/1"):
        os.utime(wheels / name)
    gc.collect(store, garbage.plan(store, 0, None, wheels))
    assert {str(each.relative_to(wheels)) for each in wheels.rglob("*") if each.is_file()} == set(stay)


def test_copies_for_engines_go_when_nobody_asked_for_them(store: Store, image: Image, tmp_path: Path) -> None:
    layers = tmp_path / "layers"
    for name in ("old/bin/x", "used/bin/x", ".killed.1-a.tmp/tree/x", ".living.1-b.tmp/tree/x"):
        (layers / name).parent.mkdir(parents=True)
        (layers / name).write_text("x")
    (layers / "old.sqfs").write_text("x")
    aged(layers, 20)
    os.utime(layers / ".living.1-b.tmp/tree/x")
    assert stamps.hit(layers / "used")
    plan = garbage.plan(store, KEEP_DAYS, copies=[layers, tmp_path / "archives"])
    assert [each.name for each in plan.garbage if each.kind == "copy"] == ["layers/old", "layers/old.sqfs"]
    gc.collect(store, plan)
    assert {each.name for each in layers.iterdir()} == {"used", ".living.1-b.tmp"}
    assert (layers / "used/bin/x").exists()


def test_what_was_built_goes_hours_after_it(store: Store) -> None:
    """A claim that is released, or whose holder died, does not keep it for a day."""
    made(store, "it")
    claim = store.claims / f"{KEY}.oci"
    another_host(claim)
    aged(store.root, 3 / 24)
    os.utime(claim / "1", (time.time() - 30,) * 2)
    assert garbage.plan(store, 0).freed == 0
    kept = garbage.held(store, 0)
    assert kept and kept.building and kept.grace == garbage.DAY and kept.size > 30_000
    assert 200 < kept.until - time.time() < 300
    aged(claim, 10 / 1440)
    assert garbage.held(store, 0) is None
    assert swept(store, 0) == kept.size and names(store) == set()


def test_what_is_held_for_an_hour_is_told(store: Store) -> None:
    made(store, "it")
    aged(store.root, 0.5 / 24)
    kept = garbage.held(store, 0)
    assert kept and not kept.building and 1700 < kept.until - time.time() < 1900
    assert garbage.held(store, KEEP_DAYS) is None  # it would not go then


def test_an_empty_store_has_no_garbage(tmp_path: Path) -> None:
    store = Store(tmp_path / "none")
    assert garbage.plan(store, 0).garbage == () and swept(store) == 0
    assert store.space_hint() is None


def test_a_full_disk_is_told_with_what_would_free_it(store: Store) -> None:
    made(store, "old", x=os.urandom(3_000_000))
    aged(store.root, 20)
    assert store.space_hint() == "runner image gc  # would free 3 MB"
