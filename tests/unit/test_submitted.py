"""The record of a submission: no job is lost and none is made twice, wherever the submitter dies."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from msgspec import structs

from kit.errors import InvalidFileError, LaunchError, NetworkError
from runner import submitted, submitter
from runner.runs import RunFolder


class Killed(BaseException):
    """The submitter is gone."""


class Slurm:
    """Takes jobs, and remembers them by comment. dies: number of the call, and when."""

    def __init__(
        self, dies: tuple[int, str] | None = None, refuses: int | None = None, deaf: bool = False
    ) -> None:
        self.deaf = deaf  # to questions
        self.hidden: dict[str, str] = {}  # jobs that it takes later than sbatch waits
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
        if self.dies == (number, "late"):
            self.hidden[comment] = self.jobs.pop(comment)
            raise NetworkError("could not submit the job: sbatch gave no answer in 120 s")
        if self.dies == (number, "after"):
            raise Killed
        if self.dies == (number, "unheard"):
            raise LaunchError("sbatch: error: Batch job submission failed: Socket timed out")
        return self.jobs[comment]

    def commented(self, prefix: str) -> Mapping[str, str]:
        if self.deaf:
            raise LaunchError("could not ask for jobs: Unable to contact slurm controller")
        return {comment: id for comment, id in self.jobs.items() if comment.startswith(prefix)}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    made = RunFolder(tmp_path / "runs/j-20261121-120000-0badcafe")
    made.make()
    return made


def begun(folder: RunFolder, wanted: int = 3) -> submitted.Record:
    return submitted.begin(folder, "j", "generic", wanted)


def gone(folder: RunFolder, record: submitted.Record) -> submitted.Record:
    """The same, of a submitter that has ended."""
    record = structs.replace(record, pid=2**22 + 1)
    submitted._write(folder, record)
    return record


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
def test_a_submitter_that_dies_is_healed_by_comment(
    folder: RunFolder, at: int, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm = Slurm(dies=(at, when))
    with pytest.raises(Killed):
        submitted.submit(folder, begun(folder), slurm)
    left = submitted.read(folder)
    assert left and left.state == "submitting"
    assert submitted.healed(folder, left, slurm) == left, "this process may still be at it"
    left = gone(folder, left)
    soon = submitted.healed(folder, left, slurm)
    assert set(soon.ids) == set(slurm.jobs.values()) and submitted.read(folder) == soon
    assert (soon.state == "submitted") == (len(soon.jobs) == 3), "what is not there may still come"
    monkeypatch.setattr(submitted, "PATIENCE", -1.0)
    assert submitted.healed(folder, left, Slurm(), there=False) == left, "another Slurm knows nothing of it"
    record = submitted.healed(folder, soon, slurm)
    assert set(record.ids) == set(slurm.jobs.values()) and submitted.read(folder) == record
    assert record.state == ("submitted" if slurm.jobs else "failed")
    assert (record.why is None) == (len(slurm.jobs) == 3)
    assert submitted.healed(folder, record, Slurm()) == record, "what is settled is not asked again"


def test_a_job_that_was_taken_unheard_is_not_made_again(folder: RunFolder) -> None:
    slurm = Slurm(dies=(0, "unheard"))
    record = submitted.submit(folder, begun(folder), slurm)
    assert record.ids == ("100", "101", "102") and len(slurm.jobs) == 3


@pytest.mark.parametrize("case", ["late", "deaf"])
def test_a_job_of_which_nobody_knows_is_neither_lost_nor_repeated(
    folder: RunFolder, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """sbatch gives up waiting, and Slurm takes the job later; or the question for it fails too."""
    slurm = Slurm(dies=(0, "late" if case == "late" else "unheard"), deaf=case == "deaf")
    folder.secrets.write_text("{}")
    with pytest.raises(LaunchError, match="whether Slurm has taken the job is not known") as failure:
        submitted.submit(folder, begun(folder, wanted=1), slurm)
    assert failure.value.hint and failure.value.hint.startswith("runner status 0badcafe")
    left = submitted.read(folder)
    assert left and left.state == "submitting" and folder.secrets.exists()
    slurm.deaf = False
    left = gone(folder, left)
    if slurm.hidden:
        assert submitted.healed(folder, left, slurm) == left and folder.secrets.exists(), "it may still come"
    slurm.jobs |= slurm.hidden
    record = submitted.healed(folder, left, slurm)
    assert (record.state, record.ids) == ("submitted", ("100",)) and folder.secrets.exists()
    slurm.jobs.clear()
    monkeypatch.setattr(submitted, "PATIENCE", -1.0)
    assert submitted.healed(folder, left, slurm).state == "failed" and not folder.secrets.exists()


def test_a_pid_is_one_of_its_namespace_and_its_time() -> None:
    own = submitter.own()
    assert own.alive is True and own.pid == os.getpid()
    assert structs.replace(own, pid=2**22 + 1).alive is False
    assert own.started and structs.replace(own, started=own.started - 1).alive is False, "its pid came again"
    assert structs.replace(own, namespace="pid:[1]").alive is None
    assert structs.replace(own, host="elsewhere").alive is None
    assert structs.replace(own, namespace="").alive is None, "a record from before"


def test_a_submitter_in_another_container_gets_patience(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = structs.replace(begun(folder), namespace="pid:[1]", pid=2**22 + 1)
    assert not submitted.abandoned(record), "that pid says nothing here"
    monkeypatch.setattr(submitted, "PATIENCE", -1.0)
    assert submitted.abandoned(record)


def test_a_submission_that_was_given_up_meanwhile_makes_no_job(folder: RunFolder) -> None:
    slurm, record = Slurm(), begun(folder)
    submitted.failed(folder, record, "the submission broke off after 0 of 3 jobs")
    with pytest.raises(LaunchError, match="given up meanwhile"):
        submitted.submit(folder, record, slurm)
    assert not slurm.said


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
