"""The record of a submission: no job is lost and none is made twice, wherever the submitter dies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from msgspec import structs

from kit.errors import InvalidFileError, LaunchError
from runner import submitted
from runner.runs import RunFolder


class Killed(BaseException):
    """The submitter is gone."""


class Slurm:
    """Takes jobs, and remembers them by comment. dies: number of the call, and when."""

    def __init__(self, dies: tuple[int, str] | None = None, refuses: int | None = None) -> None:
        self.jobs: dict[str, str] = {}
        self.said: list[Sequence[str]] = []
        self.dies, self.refuses = dies, refuses

    def submit(self, script: Path, options: Sequence[str], arguments: Sequence[str] = ()) -> str:
        number = len(self.said)
        assert arguments == [str(int(options[0].rpartition(":")[2]) + 1)], "the script counts from 1"
        self.said.append(options)
        if self.dies == (number, "before"):
            raise Killed
        if self.refuses == number:
            raise LaunchError("sbatch: error: Job violates accounting policy")
        (comment,) = [each.removeprefix("--comment=") for each in options if each.startswith("--comment=")]
        assert comment not in self.jobs, "a job was made twice"
        self.jobs[comment] = str(100 + len(self.jobs))
        if self.dies == (number, "after"):
            raise Killed
        if self.dies == (number, "unheard"):
            raise LaunchError("sbatch: error: Batch job submission failed: Socket timed out")
        return self.jobs[comment]

    def commented(self, prefix: str) -> Mapping[str, str]:
        return {comment: id for comment, id in self.jobs.items() if comment.startswith(prefix)}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    made = RunFolder(tmp_path / "runs/j-20261121-120000-0badcafe")
    made.make()
    return made


def begun(folder: RunFolder, wanted: int = 3) -> submitted.Record:
    return submitted.begin(folder, "j", "generic", wanted)


def test_each_job_of_a_chain_waits_for_the_one_before(folder: RunFolder) -> None:
    slurm = Slurm()
    record = submitted.submit(folder, begun(folder), slurm)
    assert record.state == "submitted" and record.ids == ("100", "101", "102")
    assert [list(each) for each in slurm.said] == [
        ["--comment=slipworks:0badcafe:0"],
        ["--comment=slipworks:0badcafe:1", "--dependency=afternotok:100", "--kill-on-invalid-dep=yes"],
        ["--comment=slipworks:0badcafe:2", "--dependency=afternotok:101", "--kill-on-invalid-dep=yes"],
    ]
    assert (folder.root / "chain").read_text() == "100\n101\n102\n"
    assert submitted.read(folder) == record


@pytest.mark.parametrize("at", [0, 1, 2])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_submitter_that_dies_is_healed_by_comment(folder: RunFolder, at: int, when: str) -> None:
    slurm = Slurm(dies=(at, when))
    with pytest.raises(Killed):
        submitted.submit(folder, begun(folder), slurm)
    left = submitted.read(folder)
    assert left and left.state == "submitting"
    assert submitted.healed(folder, left, slurm) == left, "this process may still be at it"
    left = structs.replace(left, pid=2**22 + 1)
    record = submitted.healed(folder, left, slurm)
    assert set(record.ids) == set(slurm.jobs.values()) and submitted.read(folder) == record
    assert record.state == ("submitted" if slurm.jobs else "failed")
    assert (record.why is None) == (len(slurm.jobs) == 3)
    assert submitted.healed(folder, record, Slurm()) == record, "what is settled is not asked again"


def test_a_job_that_was_taken_unheard_is_not_made_again(folder: RunFolder) -> None:
    slurm = Slurm(dies=(0, "unheard"))
    record = submitted.submit(folder, begun(folder), slurm)
    assert record.ids == ("100", "101", "102") and len(slurm.jobs) == 3


def test_what_sbatch_refuses_is_an_error_and_recorded(folder: RunFolder) -> None:
    with pytest.raises(LaunchError, match="accounting policy"):
        submitted.submit(folder, begun(folder), Slurm(refuses=0))
    record = submitted.read(folder)
    assert record and record.state == "failed" and record.why and "policy" in record.why
    assert not (folder.root / "chain").exists()


def test_a_shorter_chain_is_told(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    record = submitted.submit(folder, begun(folder), Slurm(refuses=1))
    assert record.state == "submitted" and record.ids == ("100",) and record.why
    assert "2 of 2 restarts could not be submitted" in capsys.readouterr().err


def test_what_was_never_submitted_and_what_is_damaged(folder: RunFolder) -> None:
    assert submitted.read(folder) is None
    folder.submission.write_text("{")
    with pytest.raises(InvalidFileError):
        submitted.read(folder)
