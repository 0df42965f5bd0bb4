"""Layouts and archives as targets: killed, replaced, damaged, written to by many, with many names."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import shutil
import tarfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from image_cache import oci
from image_cache.oci import Descriptor
from image_cache.places import Target, finding
from image_cache.places.archive import ArchiveTarget
from image_cache.places.layout import LayoutTarget
from kit import files
from kit.errors import HashMismatchError, HeldError, InvalidFileError, NoSpaceError
from kit.nouns import digest

FORK = multiprocessing.get_context("fork")


def put(target: Target, name: str) -> str:
    """An image of one layer, as repository `name`, tag `t`."""
    layer, config = f"layer of {name}".encode() * 50, oci.encode({"os": "linux", "of": name})
    described = [
        Descriptor(kind, digest(raw), len(raw)) for kind, raw in ((oci.CONFIG, config), (oci.GZIP, layer))
    ]
    target.give(name, described[0], config)
    target.give(name, described[1], layer)
    return target.put(name, "t", oci.encode(oci.Manifest(described[0], (described[1],))), oci.MANIFEST)


def names(file: Path) -> set[str]:
    with tarfile.open(file) as tar:
        index = tar.extractfile("index.json")
        assert index
        there = {member.name for member in tar}
        entries = json.load(index)["manifests"]
    assert all(f"blobs/sha256/{one['digest'][7:]}" in there for one in entries)
    return {one["annotations"][oci.REF_NAME].removesuffix(":t") for one in entries}


def hidden(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir() if each.name.startswith("."))


def archived(file: Path, *held: str) -> bytes:
    target = ArchiveTarget(file)
    for each in held:
        put(target, each)
    target.close()
    return file.read_bytes()


def killed(do: object) -> None:
    """In a process of its own, that ends without any farewell."""

    def die() -> None:
        try:
            do()  # type: ignore[operator]
        finally:
            os._exit(9)

    child = FORK.Process(target=die)
    child.start()
    child.join(60)
    assert child.exitcode == 9


# -- killed --------------------------------------------------------------------------------------------------


def test_what_was_put_before_a_kill_is_in_the_archive_that_the_next_run_closes(tmp_path: Path) -> None:
    file = tmp_path / "out.tar"
    archived(file, "a")
    killed(lambda: put(ArchiveTarget(file), "b"))
    assert names(file) == {"a"}
    target = ArchiveTarget(file)
    assert target.find("b", "t") and target.find("a", "t")
    target.close()  # with nothing new
    assert names(file) == {"a", "b"} and hidden(tmp_path) == []


def test_killed_while_the_folder_is_removed_the_archive_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "out.tar"

    def half(path: Path, **_: object) -> None:
        if path.exists():
            for blob in sorted((path / "blobs/sha256").iterdir())[:3]:
                blob.unlink()
            os._exit(9)

    def run() -> None:
        monkeypatch.setattr(shutil, "rmtree", half)
        archived(file, "a", "b")

    killed(run)
    before = file.read_bytes()
    target = ArchiveTarget(file)
    target.close()
    assert file.read_bytes() == before and names(file) == {"a", "b"}
    archived(file, "c")
    assert names(file) == {"a", "b", "c"} and hidden(tmp_path) == []


def test_killed_between_the_file_and_its_folders_end_nothing_is_packed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "out.tar"

    def run() -> None:
        monkeypatch.setattr(ArchiveTarget, "_retire", lambda self: os._exit(9))
        archived(file, "a")

    killed(run)
    before = file.stat()
    ArchiveTarget(file).close()
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert hidden(tmp_path) == []


def test_what_a_killed_process_half_wrote_is_swept_away(tmp_path: Path) -> None:
    file = tmp_path / "out.tar"
    for litter in (".out.tar.77-0123abcd.tmp", "..out.tar.layout.77-0123abcd.tmp", ".out.tar.other.tmp"):
        (tmp_path / litter).write_text("x")
    (tmp_path / ".out.tar.gone").mkdir()
    archived(file, "a")
    assert hidden(tmp_path) == [".out.tar.other.tmp"]


# -- replaced, damaged, in use -------------------------------------------------------------------------------


@pytest.mark.parametrize("was", [True, False])
def test_an_archive_that_was_replaced_meanwhile_is_not_overwritten(tmp_path: Path, was: bool) -> None:
    file = tmp_path / "out.tar"
    if was:
        archived(file, "a")
    killed(lambda: put(ArchiveTarget(file), "b"))
    (tmp_path / "elsewhere").mkdir()
    newer = archived(tmp_path / "elsewhere/out.tar", "newer")
    file.write_bytes(newer)
    with pytest.raises(InvalidFileError, match="was replaced after a run that was broken off"):
        ArchiveTarget(file)
    assert file.read_bytes() == newer
    shutil.rmtree(tmp_path / ".out.tar.layout")
    archived(file, "c")
    assert names(file) == {"newer", "c"}


def test_nothing_is_written_for_questions(tmp_path: Path) -> None:
    file = tmp_path / "out.tar"
    assert ArchiveTarget(file).find("a", "t") is None
    archived(file, "a")
    target = ArchiveTarget(file)
    found = target.find("a", "t")
    assert found and target.labels("a", found) == {} and target.find("b", "t") is None
    target.close()
    assert [each.name for each in tmp_path.iterdir()] == ["out.tar"]


def test_an_archive_is_replaced_only_by_a_whole_and_sound_one(tmp_path: Path) -> None:
    file = tmp_path / "out.tar"
    before = archived(file, "a")
    target = ArchiveTarget(file)
    put(target, "b")
    layer = target.blobs.blob(digest(b"layer of b" * 50))
    layer.write_bytes(b"LAYER of b" * 50)
    with pytest.raises(HashMismatchError, match="is damaged"):
        target.close()
    layer.unlink()
    with pytest.raises(InvalidFileError, match="lacks 1 blobs that its index names"):
        ArchiveTarget(file).close()
    assert file.read_bytes() == before
    layer.write_bytes(b"layer of b" * 50)
    ArchiveTarget(file).close()
    assert names(file) == {"a", "b"} and hidden(tmp_path) == []


def test_two_processes_do_not_write_to_one_archive(tmp_path: Path) -> None:
    file, ready, end = tmp_path / "out.tar", FORK.Event(), FORK.Event()

    def other() -> None:
        target = ArchiveTarget(file)
        put(target, "theirs")
        ready.set()
        end.wait(30)
        target.close()

    child = FORK.Process(target=other)
    child.start()
    assert ready.wait(30)
    with pytest.raises(HeldError, match=f"out.tar is written to by process {child.pid}"):
        put(ArchiveTarget(file), "ours")
    target = ArchiveTarget(file)
    end.set()
    child.join(30)
    put(target, "ours")  # that was opened before the other ended
    target.close()
    assert names(file) == {"theirs", "ours"} and hidden(tmp_path) == []


def add(tar: tarfile.TarFile, name: str, body: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(body)
    tar.addfile(member, io.BytesIO(body))


def test_nothing_of_an_archive_leaves_its_folder(tmp_path: Path) -> None:
    file = tmp_path / "in/out.tar"
    file.parent.mkdir()
    archived(file, "a")
    with tarfile.open(file, "a") as tar:
        for name in ("blobs/sha256/../../../../evil", f"blobs/sha256/{'a' * 64}/../x", "blobs/sha256/short",
                     "base", f"./blobs/sha256/{'A' * 64}", f"blobs/sha256/{'a' * 64}\n"):  # fmt: skip
            add(tar, name, b"evil")
    target = ArchiveTarget(file)
    put(target, "b")
    assert not (tmp_path / "evil").exists() and len([*target.blobs.blobs.iterdir()]) == 6
    target.close()
    assert names(file) == {"a", "b"}


def test_a_damaged_blob_of_an_archive_is_not_taken_over(tmp_path: Path) -> None:
    file = tmp_path / "out.tar"
    raw = archived(file, "a")
    file.write_bytes(raw.replace(b"layer of alayer", b"layer of Alayer"))
    with pytest.raises(HashMismatchError, match=r"out\.tar has sha256"):
        put(ArchiveTarget(file), "b")
    assert hidden(tmp_path) == []


# -- names ---------------------------------------------------------------------------------------------------


def test_a_put_that_was_not_written_down_is_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One thread writes for all that wait; when that fails, each hears of it or is written by another."""
    target, write, calls = LayoutTarget(tmp_path / "out"), files.write, []
    entered = threading.Barrier(8)

    def failing(path: Path, *rest: object) -> None:
        if path.name == "index.json":
            calls.append(1)
            time.sleep(0.2)  # the others wait by then
            if len(calls) == 2:
                raise NoSpaceError("no space left")
        write(path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(files, "write", failing)

    def one(number: int) -> str | None:
        entered.wait(10)
        try:
            return put(target, f"n{number}")
        except NoSpaceError:
            return None

    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(one, range(8)))
    assert done.count(None) == 1 and len(calls) < 8
    again = finding.target(f"oci:{tmp_path}/out")
    assert all(again.find(f"n{number}", "t") == made for number, made in enumerate(done) if made)


def test_ten_thousand_names_cost_little_and_those_of_others_are_seen(tmp_path: Path) -> None:
    target = LayoutTarget(tmp_path / "out")
    first = put(target, "first")
    path = tmp_path / "out/index.json"
    table = json.loads(path.read_bytes())
    (entry,) = table["manifests"]
    more = [{**entry, "annotations": {oci.REF_NAME: f"n{number}:t"}, "own": 1} for number in range(10_000)]
    table["manifests"] = [entry, *more]
    files.write(path, json.dumps(table))
    assert target.find("n9999", "t") == first
    began = time.process_time()
    for number in range(300):
        assert target.find(f"n{number}", "t") == first
    for number in range(30):
        put(target, f"late {number}")
    assert time.process_time() - began < 5  # to read all anew each time took 70 s
    after = json.loads(path.read_bytes())["manifests"]
    assert after[:10_001] == table["manifests"] and len(after) == 10_031
