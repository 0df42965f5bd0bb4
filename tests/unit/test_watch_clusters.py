"""Another cluster's Slurm, and one that does not answer, prove nothing of a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kit.errors import NotFoundError
from runner import cleaning, entering, run_files, run_states
from runner.meeting import Ended
from runner.run_states import own_rows
from runner.runs import RunFolder
from runner.watching import Watch
from tests.unit.parts_watch import Reached, Slurm, attempt, reached, record, row, run, runs, typed

__all__ = ["reached", "runs"]
THEIRS = [
    Slurm(cluster="elsewhere"),
    Slurm(row("10", "COMPLETED", "deadbeef")),
    Slurm(row("10", "RUNNING", "deadbeef"), cluster="elsewhere"),
    Slurm(past=[row("10", "FAILED", comment="", name="another's", accounted=True)], cluster="elsewhere"),
]


@pytest.fixture
def folder(runs: Path) -> RunFolder:
    """A run whose job waits, with secrets."""
    made = run(runs)
    record(made, "10")
    made.secrets.write_text("{}")
    return made


@pytest.mark.parametrize("slurm", THEIRS)
def test_another_slurm_does_not_end_a_run(folder: RunFolder, slurm: Slurm) -> None:
    now = Watch(lambda: slurm).state(folder)
    assert (now.state, now.why) == ("unknown", "submitted; the Slurm here is not that of generic")
    assert not now.over and not now.sure and now.rows == () and folder.secrets.exists()
    attempt(folder, job="10")
    assert Watch(lambda: slurm).state(folder).state == "running", "its nodes give signs of life"
    attempt(folder, job="10", ended=Ended(4, "so"), code=4)
    now = Watch(lambda: slurm).state(folder)
    assert now.over and not now.sure and folder.secrets.exists()
    assert cleaning.plan([folder], -100.0, Watch(lambda: slurm), whole=True) == []
    assert not folder.result.exists()


@pytest.mark.parametrize("slurm", THEIRS)
def test_another_slurm_is_not_told_to_cancel(
    folder: RunFolder, slurm: Slurm, reached: Reached, capsys: pytest.CaptureFixture[str]
) -> None:
    slurm.cancelled.clear()
    reached(slurm)
    code, _, err = typed(capsys, "cancel", "last")
    assert code == 0 and not slurm.cancelled and "shows none of its jobs here" in err
    assert folder.finished.read_text() == "cancelled\n"


def test_a_job_with_the_runs_comment_is_its_own_whatever_the_cluster_is_called(folder: RunFolder) -> None:
    slurm = Slurm(row("10", "PENDING", reason="Priority"), cluster="elsewhere")
    watch = Watch(lambda: slurm)
    assert watch.state(folder).state == "pending"
    slurm.rows["10"] = row("10", "CANCELLED")
    assert watch.anew(folder).state == "cancelled" and not folder.secrets.exists()


def test_the_accounting_may_have_no_comments(folder: RunFolder) -> None:
    kept = record(folder, "10")
    past = row("10", "TIMEOUT", comment="", name="j", accounted=True)
    assert own_rows(kept, {"10": past}) == (past,)
    assert own_rows(kept, {"10": past}, elsewhere=True) == (), "there the name is another job's"
    for other in ({"name": "k"}, {"comment": "slipworks:deadbeef:0"}, {"accounted": False}):
        said = {"name": "j", "comment": "", "accounted": True} | other
        assert own_rows(kept, {"10": row("10", "TIMEOUT", **said)}) == ()


def test_another_slurm_does_not_heal(folder: RunFolder) -> None:
    record(folder, state="submitting", wanted=1, host="gone", begun="2020-01-01T00:00:00+00:00")
    assert Watch(lambda: Slurm(cluster="elsewhere")).state(folder).state == "unknown"
    assert folder.secrets.exists()
    there = Watch(lambda: Slurm(row("10", "PENDING"), cluster="elsewhere"))
    assert there.state(folder).state == "pending", "what it has of it counts"
    record(folder, state="submitting", wanted=1, host="gone", begun="2020-01-01T00:00:00+00:00")
    assert Watch(lambda: Slurm()).state(folder).state == "failed" and not folder.secrets.exists()


@pytest.mark.parametrize("code", [143, 137, 4])
def test_a_job_that_may_come_again_keeps_its_secrets_where_nobody_was_asked(
    folder: RunFolder, code: int
) -> None:
    """Preempted, it goes back to the queue, with TERM to its script."""
    meeting = attempt(folder, job="10", code=code, alive=False)
    if code == 143:
        meeting.stop("Slurm ended the job (SIGTERM)")
    now = Watch(lambda: Slurm(away=True)).state(folder)
    assert folder.secrets.exists() and now.state == ("failed" if code == 4 else "unknown")
    assert now.why.endswith("Slurm was not asked, which knows what follows") or code == 4
    folder.finished.write_text("no step was made\n")
    assert Watch(lambda: Slurm(away=True)).state(folder).state == "failed"
    assert not folder.secrets.exists(), "no attempt follows, whatever Slurm says"


def test_asked_slurm_says_that_it_has_ended(folder: RunFolder) -> None:
    attempt(folder, job="10", code=143, alive=False)
    slurm = Slurm(row("10", "PENDING", reason="BeginTime"))
    watch = Watch(lambda: slurm)
    assert watch.state(folder).state == "pending" and folder.secrets.exists(), "it was put back"
    slurm.rows["10"] = row("10", "PREEMPTED")
    assert watch.anew(folder).why == "it was preempted" and not folder.secrets.exists()


def test_attach_asks_whose_job_it_is(folder: RunFolder) -> None:
    files = run_files.read(folder)
    entering._demand_own(files, "10", Slurm(row("10", "RUNNING")))
    with pytest.raises(NotFoundError, match=r"has no job 10 of j-.*, which was submitted to generic"):
        entering._demand_own(files, "10", Slurm(row("10", "RUNNING", "deadbeef")))


def test_a_damaged_submission_is_no_local_run(folder: RunFolder) -> None:
    folder.submission.write_text("{")
    now = run_states.of(run_files.read(folder), {}, 2e9)
    assert not now.sure and cleaning.plan([folder], -100.0, Watch(lambda: Slurm()), whole=True) == []


def test_another_runs_job_by_the_same_number_is_listed_as_a_stranger(
    folder: RunFolder, reached: Reached, capsys: pytest.CaptureFixture[str]
) -> None:
    reached(Slurm(row("10", "RUNNING", "deadbeef", name="notebook")))
    told = json.loads(typed(capsys, "status", "--json")[1])
    assert sorted((each["name"], each["state"]) for each in told) == [
        ("j", "unknown"),
        ("notebook", "running"),
    ]
