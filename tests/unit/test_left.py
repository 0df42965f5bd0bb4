"""What a run of the tests leaves when it is killed, the next one removes; and nothing of one that lives."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.live import parts_left


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(parts_left, "PLACE", tmp_path)
    return tmp_path


def locked(folder: Path) -> subprocess.Popen[bytes]:
    """A process that keeps a folder locked until it is killed."""
    script = 'exec 9<"$1" && flock 9 && echo && exec sleep 60'
    holder = subprocess.Popen(["bash", "-c", script, "bash", folder], stdout=subprocess.PIPE)
    assert holder.stdout and holder.stdout.readline() == b"\n"
    return holder


def test_a_folder_is_its_makers_until_that_dies(place: Path) -> None:
    other = place / "slipworks-test-storage-12345678"
    (other / "graph").mkdir(parents=True)
    holder = locked(other)
    try:
        first, second = parts_left.made("storage"), parts_left.made("storage")
        assert other.exists() and first.exists() and second.exists()
        parts_left.removed(first)
        assert not first.exists() and second.exists()
    finally:
        holder.kill()
        holder.wait()
    with parts_left.apart("storage") as third:
        assert not other.exists() and second.exists() and third.exists()
    assert not third.exists()
    parts_left.removed(second)


def test_folders_of_jobs_go_once_no_process_of_theirs_lives(place: Path) -> None:
    names = ["slipworks-7-0.abcDEF", "slipworks-mounts-7-1.abcDEF", "slipworks-podman-12-0.123456"]
    kept = ["slipworks-test-slurm-abcdefgh", "slipworks-mine", "slipworks-7-0.abcDEF.old", "other-7-0.abcDEF"]
    for name in [*names, *kept]:
        (place / name).mkdir()
    (place / "slipworks-8-0.abcDEF").symlink_to(place / "slipworks-mine")
    holder = locked(place / names[0])
    try:
        parts_left.jobs_folders()
        assert sorted(each.name for each in place.iterdir()) == sorted(
            [names[0], *kept, "slipworks-8-0.abcDEF"]
        )
    finally:
        holder.kill()
        holder.wait()
    parts_left.jobs_folders()
    assert not (place / names[0]).exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_what_is_mounted_below_is_unmounted_and_not_emptied(
    place: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "file").write_text("kept")
    folder = parts_left.made("storage")
    at = folder / "it's a place"
    at.mkdir()
    subprocess.run(["mount", "--bind", elsewhere, at], check=True)
    assert parts_left.mounted(folder) == [str(at)]
    parts_left.removed(folder)
    assert (elsewhere / "file").read_text() == "kept"
