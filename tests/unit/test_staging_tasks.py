"""Tasks out of parquet files: folders, whole or not there, and nothing outside of them."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from msgspec.structs import replace
from pyarrow import parquet

from kit.errors import InvalidFileError
from runner import submission
from runner.job import Job
from runner.staging import staged, submitting, tasks
from runner.staging.asked import Dataset, Stage
from slurm import clusters
from tests.unit.parts_hub import StandIn, hub

__all__ = ["hub"]
TASK = {
    "instruction.md": b"Do it.",
    "tests/test.sh": b"#!/bin/sh\nexit 0\n",
    "environment/Dockerfile": b"FROM x",
}


def tar(files: dict[str, bytes], how: str = "gz", *more: tarfile.TarInfo) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode=f"w:{how}") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755 if name.endswith(".sh") else 0o644
            archive.addfile(entry, io.BytesIO(content))
        for each in more:
            archive.addfile(each)
    return raw.getvalue()


def link(name: str, to: str) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = tarfile.SYMTYPE, to
    return entry


def device(name: str) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type = tarfile.FIFOTYPE
    return entry


def rows(*pairs: tuple[Any, Any]) -> bytes:
    raw = io.BytesIO()
    table = pyarrow.Table.from_pylist(
        [{"path": path, "task_binary": packed, "n": 1} for path, packed in pairs]
    )
    parquet.write_table(table, raw, row_group_size=2)
    return raw.getvalue()


def file(tmp_path: Path, content: bytes, name: str = "a.parquet") -> Path:
    (tmp_path / name).write_bytes(content)
    return tmp_path / name


def test_each_row_is_a_folder_in_whatever_compression(tmp_path: Path) -> None:
    one = file(
        tmp_path, rows(*((f"task-{how or 'plain'}", tar(TASK, how)) for how in ("gz", "bz2", "xz", "")))
    )
    two = file(tmp_path, rows(("deep/er/task", tar(TASK)), ("empty", tar({}))), "b.parquet")
    told: list[int] = []
    found = tasks.extract([one, two], tmp_path / "out", told.append)
    assert found == ("task-gz", "task-bz2", "task-xz", "task-plain", "deep/er/task", "empty")
    assert told[-1] == 6 and (tmp_path / "out/empty").is_dir()
    for name in found[:5]:
        for path, content in TASK.items():
            assert (tmp_path / "out" / name / path).read_bytes() == content
        assert os.access(tmp_path / "out" / name / "tests/test.sh", os.X_OK)


@pytest.mark.parametrize(
    ("pairs", "match"),
    [
        ([("../out-of-it", tar(TASK))], "expected a folder below"),
        ([("/abs", tar(TASK))], "expected a folder below"),
        ([("", tar(TASK))], "expected a folder below"),
        ([("a", tar(TASK)), ("./a", tar(TASK))], r"row 1: there is a task a already"),
        ([("a", tar({"../evil": b"x"}))], r"'\.\./evil' of its archive leads out"),
        ([("a", tar({"/tmp/evil": b"x"}))], "'/tmp/evil' of its archive leads out"),
        ([("a", tar({}, "gz", link("x", "/etc")))], "the link 'x' of its archive leads out"),
        ([("a", tar({}, "gz", link("x/y", "../../z")))], "the link 'x/y' of its archive leads out"),
        (
            [("a", tar({}, "gz", link("x", "."), tarfile.TarInfo("x/evil")))],
            "'x/evil' of its archive leads out",
        ),
        (
            [("a", tar({"d/f": b""}, "gz", link("d/u", ".."), link("v", "d/u/..")))],
            "the link 'v' of its archive leads",
        ),
        ([("a", tar({"x/y": b"", "x/y/z": b""}))], "a file and a folder of one name"),
        ([("a", tar({"x/y": b"", "x": b""}))], "a file and a folder of one name"),
        ([("a", tar({}, "gz", device("x")))], "'x' of its archive is neither file, folder nor link"),
        ([("a", tar(TASK)), ("b", b"no archive")], r"a\.parquet, row 1: its archive cannot be unpacked"),
        ([("a", tar(TASK, "gz")[:-200])], "cannot be unpacked"),
        ([("a", None), ("b", tar(TASK))], "holds no bytes"),
    ],
)
def test_what_is_wrong_leaves_nothing(tmp_path: Path, pairs: Sequence[tuple[Any, Any]], match: str) -> None:
    with pytest.raises(InvalidFileError, match=match):
        tasks.extract([file(tmp_path, rows(*pairs))], tmp_path / "out")
    assert [each.name for each in tmp_path.iterdir()] == ["a.parquet"]


def test_other_parquet_files_are_told_what_they_lack(tmp_path: Path) -> None:
    raw = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist([{"prompt": "x", "path": "y"}]), raw)
    with pytest.raises(InvalidFileError, match="has no column task_binary: found path, prompt"):
        tasks.extract([file(tmp_path, raw.getvalue())], tmp_path / "out")
    with pytest.raises(InvalidFileError, match="no whole Parquet file"):
        tasks.extract([file(tmp_path, rows(("a", tar(TASK)))[:-20])], tmp_path / "out")


def test_links_within_a_task_are_kept_and_the_last_of_a_name_counts(tmp_path: Path) -> None:
    hard = tarfile.TarInfo("copy")
    hard.type, hard.linkname = tarfile.LNKTYPE, "instruction.md"
    again = tarfile.TarInfo("now")  # of nothing in it
    packed = tar(TASK, "gz", link("tests/up", "../instruction.md"), link("now", "tests"), hard, again)
    tasks.extract([file(tmp_path, rows(("a", packed)))], tmp_path / "out")
    made = tmp_path / "out/a"
    assert (made / "tests/up").read_bytes() == b"Do it." and (made / "tests/up").is_symlink()
    assert (made / "copy").read_bytes() == b"Do it." and (made / "now").read_bytes() == b""


def wanted(*datasets: Dataset) -> Job:
    return Job(name="j", arch="cpu", run="true", stage=Stage(datasets=datasets))


def test_a_data_set_with_tasks_is_seen_as_its_folders(hub: StandIn, tmp_path: Path) -> None:
    id = "open-thoughts/tasks"
    hub.publish(
        "dataset", id, {"README.md": b"", "data/tasks.parquet": rows(("t-1", tar(TASK)), ("t-2", tar(TASK)))}
    )
    job = wanted(Dataset(id=id, tasks=True), Dataset(id=id, name="raw"))
    plan = submitting.brought(job, submission.launch(job, clusters.load("jureca"), "0badcafe"), tmp_path)
    tasks_, raw = (tmp_path / "huggingface" / each.folder for each in plan.staged)
    assert sorted(each.name for each in tasks_.iterdir()) == ["t-1", "t-2"]
    assert (tasks_ / "t-1/instruction.md").read_bytes() == b"Do it."
    assert (raw / "data/tasks.parquet").exists()
    here = [replace(each, home=str(tmp_path / "huggingface")) for each in plan.staged]
    assert [staged.missing(each) for each in here] == [None, None]
    shutil.rmtree(tasks_ / "t-2")
    assert staged.missing(here[0]) == str(tasks_ / "t-2")
    submitting.brought(job, submission.launch(job, clusters.load("jureca"), "0badcafe"), tmp_path)
    assert sorted(each.name for each in tasks_.iterdir()) == ["t-1", "t-2"], "extracted again"


def test_tasks_that_a_job_may_be_reading_are_never_removed(hub: StandIn, tmp_path: Path) -> None:
    """Whatever of the data set a site has cleaned away, and whoever stages it again."""
    id, home = "open-thoughts/tasks", tmp_path / "huggingface"
    hub.publish("dataset", id, {"README.md": b"x", "a.parquet": rows(("t-1", tar(TASK)), ("t-2", tar(TASK)))})

    def stage(**more: Any) -> staged.Staged:
        job = wanted(Dataset(id=id, **more))
        plan = submission.launch(job, clusters.load("jureca"), "0badcafe")
        return replace(submitting.brought(job, plan, tmp_path).staged[0], home=str(home))

    entry = stage(tasks=True)
    tasks_ = home / entry.folder
    mine = (tasks_ / "t-1/instruction.md").stat().st_ino

    def lose() -> None:
        (home / f"hub/datasets--open-thoughts--tasks/snapshots/{entry.commit}/README.md").resolve().unlink()

    for again in ({"tasks": True}, {}):
        lose()
        assert staged.missing(entry)
        stage(**again)
        assert staged.missing(entry) is None
        assert (tasks_ / "t-1/instruction.md").stat().st_ino == mine
        assert (staged.read(home / entry.record) or pytest.fail()).folders == ("t-1", "t-2")
    shutil.rmtree(tasks_ / "t-2")
    (tasks_ / "t-1/tests/test.sh").unlink()
    assert stage(tasks=True) == entry and staged.missing(entry) is None
    assert (tasks_ / "t-1/instruction.md").stat().st_ino == mine
    assert {str(each.relative_to(tasks_)) for each in tasks_.rglob("*") if each.is_file()} == {
        f"{task}/{name}" for task in ("t-1", "t-2") for name in TASK
    }
    assert [each.name for each in tasks_.parent.glob("*.tasks*")] == [tasks_.name], (
        "nothing is left beside it"
    )


def test_tasks_of_a_data_set_without_parquet(hub: StandIn, tmp_path: Path) -> None:
    hub.publish("dataset", "a/b", {"task-1/instruction.md": b"x"})
    job = wanted(Dataset(id="a/b", tasks=True))
    with pytest.raises(
        InvalidFileError, match=r"^stage\.datasets\[0\]: dataset a/b has no parquet file"
    ) as raised:
        submitting.brought(job, submission.launch(job, clusters.load("jureca"), "0badcafe"), tmp_path)
    assert "/slipworks-run/staged/b" in str(raised.value.hint)
