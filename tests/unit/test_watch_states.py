"""What state a run is in, by its files and by Slurm's word."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from runner import moments, run_files, run_states
from runner.meeting import Ended
from runner.run_states import Now, Row
from runner.runs import RunFolder
from slurm.answers import Past
from tests.unit.parts_watch import attempt, record, row, run


def state(folder: RunFolder, *rows: Row, asked: bool = True) -> Now:
    found = run_files.read(folder)
    return run_states.of(found, {each.id: each for each in rows} if asked else None, time.time())


def told(now: Now) -> tuple[str, str, int | None]:
    return now.state, now.why, now.code


def test_a_local_run_from_its_beginning_to_its_end(tmp_path: Path) -> None:
    folder = run(tmp_path)
    assert told(state(folder)) == ("starting", "", None)
    folder.attempt(1).folder.mkdir()
    assert told(state(folder)) == ("starting", "", None), "no sign of life was due yet"
    meeting = attempt(folder)
    assert told(state(folder)) == ("running", "command started", None)
    meeting.stop("cancelled")
    assert told(state(folder)) == ("ending", "cancelled", None)
    meeting.end(0, Ended(7, "it was told to\nits last lines:\n  a secret"))
    folder.result.write_text('{"code": 7}')
    assert told(state(folder)) == ("failed", "it was told to", 7), "an error's first line, not its log"
    folder.result.write_text('{"code": 0}')
    assert told(state(folder)) == ("completed", "", 0)
    folder.finished.write_text("cancelled\n")
    folder.result.write_text('{"code": 143}')
    assert told(state(folder)) == ("cancelled", "", 143)


def test_a_local_run_whose_launcher_failed_or_was_killed(tmp_path: Path) -> None:
    folder = run(tmp_path)
    attempt(folder, alive=False)
    assert told(state(folder)) == ("lost", "its launcher is gone", None)
    folder.result.write_text("{}")
    assert state(folder).state == "failed"


def test_a_local_run_whose_launcher_was_killed_at_once(tmp_path: Path) -> None:
    folder = run(tmp_path)
    folder.attempt(1).folder.mkdir()
    os.utime(folder.job, (time.time() - 120,) * 2)
    assert told(state(folder)) == ("lost", "its launcher is gone", None)


def test_ctrl_c_is_a_cancellation(tmp_path: Path) -> None:
    folder = run(tmp_path)
    attempt(folder).stop("SIGINT came to the launcher")
    folder.result.write_text('{"code": 130}')
    assert told(state(folder)) == ("cancelled", "SIGINT came to the launcher", 130)


def test_a_job_waits_runs_and_ends(tmp_path: Path) -> None:
    folder = run(tmp_path)
    record(folder, "10", "11")
    waits = row("11", "PENDING", reason="Dependency")
    assert told(state(folder, row("10", "PENDING", reason="Resources"), waits)) == (
        "pending",
        "Resources",
        None,
    )
    assert told(state(folder, row("10", "RUNNING"), waits)) == ("running", "the job starts", None)
    meeting = attempt(folder, job="10")
    assert told(state(folder, row("10", "RUNNING"), waits)) == ("running", "command started", None)
    meeting.end(0, Ended(0))
    folder.finished.write_text("succeeded\n")
    assert told(state(folder, row("10", "RUNNING"), waits)) == ("ending", "succeeded", None)
    cancelled = row("11", "CANCELLED")
    assert told(state(folder, row("10", "COMPLETED"), cancelled)) == ("completed", "", 0)
    assert told(state(folder)) == ("completed", "", 0), "long after"
    assert told(state(folder, asked=False)) == ("ending", "succeeded", None), "its nodes give signs of life"
    attempt(folder, job="10", code=0)
    assert told(state(folder, asked=False)) == ("completed", "", 0), "without Slurm"


def test_a_chain_between_two_attempts(tmp_path: Path) -> None:
    folder = run(tmp_path)
    record(folder, "10", "11")
    attempt(folder, 1, job="10", ended=Ended(3, "it failed"), code=3)
    gone = row("10", "FAILED", code=3)
    now = state(folder, gone, row("11", "PENDING", reason="BeginTime"))
    assert told(now) == ("pending", "BeginTime, after attempt 1 ended with code 3", None)
    assert told(state(folder, gone, row("11", "RUNNING"))) == ("running", "the job starts", None)
    assert state(folder, asked=False).state == "unknown", "what follows only Slurm knows"
    attempt(folder, 2, job="11", ended=Ended(4, "again"), code=4)
    assert told(state(folder, gone, row("11", "FAILED", code=4))) == ("failed", "again", 4)
    assert told(state(folder, asked=False)) == ("failed", "again", 4), "nothing can follow"


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("TIMEOUT", ("failed", "the time limit", 143)),
        ("NODE_FAIL", ("failed", "a node failed", 143)),
        ("OUT_OF_MEMORY", ("failed", "out of memory", 143)),
        ("CANCELLED", ("cancelled", "in Slurm", 143)),
        ("FAILED", ("failed", "Slurm ended the job (SIGTERM)", 143)),
    ],
)
def test_slurm_knows_why(tmp_path: Path, word: str, expected: tuple[str, str, int]) -> None:
    folder = run(tmp_path)
    record(folder, "10")
    attempt(folder, job="10", code=143).stop("Slurm ended the job (SIGTERM)")
    assert told(state(folder, row("10", word))) == expected


def test_before_any_attempt(tmp_path: Path) -> None:
    folder = run(tmp_path)
    record(folder, "10", "11")
    assert told(state(folder, row("10", "CANCELLED"))) == ("cancelled", "in Slurm", None)
    now = state(folder, row("10", "FAILED", code=50), row("11", "CANCELLED"))
    assert told(now) == ("failed", "before its first attempt: failed", 50)
    assert state(folder).state == "lost"
    assert told(state(folder, asked=False)) == ("unknown", "submitted; Slurm was not asked", None)


def test_a_cancelled_chain_is_ending_until_slurm_is_done(tmp_path: Path) -> None:
    folder = run(tmp_path)
    record(folder, "10", "11")
    folder.finished.write_text("cancelled\n")
    rows = (row("10", "COMPLETING"), row("11", "CANCELLED"))
    assert told(state(folder, *rows)) == ("ending", "cancelled", None)
    assert told(state(folder, row("10", "PENDING"))) == ("ending", "cancelled", None)
    assert told(state(folder, row("10", "CANCELLED"))) == ("cancelled", "", None)


def test_no_step_was_made(tmp_path: Path) -> None:
    folder = run(tmp_path)
    record(folder, "10", "11")
    attempt(folder, job="10", ended=Ended(2), code=2)
    folder.finished.write_text("no step was made\n")
    rows = (row("10", "FAILED"), row("11", "CANCELLED"))
    assert told(state(folder, *rows)) == ("failed", "no step was made", 2)


def test_a_requeued_job_waits_again(tmp_path: Path) -> None:
    folder = run(tmp_path)
    record(folder, "10")
    attempt(folder, job="10", code=143).stop("Slurm ended the job (SIGTERM)")
    now = state(folder, row("10", "PENDING", reason="BeginTime"))
    assert now.state == "pending" and "after attempt 1" in now.why


def test_submissions_that_broke_off_or_were_refused(tmp_path: Path) -> None:
    folder = run(tmp_path)
    record(folder, state="failed", why="Invalid account")
    assert told(state(folder)) == ("failed", "not submitted: Invalid account", None)
    record(folder, state="submitting", host="elsewhere", begun="2020-01-01T00:00:00+00:00")
    assert state(folder).state == "unknown"
    record(folder, state="submitting", host="elsewhere", begun="2999-01-01T00:00:00+00:00")
    assert state(folder).state == "submitting"


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    folder = run(tmp_path)
    folder.job.write_bytes(b"{")
    folder.submission.write_bytes(b"{")
    found = run_files.read(folder)
    assert found.wrong and "submission.json" in found.wrong
    attempt(folder).end(0, Ended(1))
    (folder.attempt(1).meeting / "ended-0").write_bytes(b"{")
    folder.attempt(1).events("0").write_bytes(b'{"at"')
    assert run_files.read(folder).tries[0].doing is None


def test_accounting_rows() -> None:
    from runner import slurm_rows

    past = Past(
        id="10", user="me", state="CANCELLED by 1000", exit_code="0:15", partition="p", account="",
        nodes="n1", submitted=1, started=2, ended=3, comment="", name="j",
    )  # fmt: skip
    found = slurm_rows.of_past(past)
    assert (found.state, found.code, found.kind) == ("CANCELLED", 143, "ended")


@pytest.mark.parametrize(
    ("text", "seconds"), [("6h", 6 * 3600), ("30m", 1800), ("2d", 172800), ("1.5h", 5400), ("90s", 90)]
)
def test_spans_are_what_they_say(text: str, seconds: float) -> None:
    assert moments.span(text, "--since") == seconds


@pytest.mark.parametrize("text", ["6", "h", "0h", "-1d", "6 hours", "9999999999d", ""])
def test_other_spans_are_refused(text: str) -> None:
    from kit.errors import UsageError

    with pytest.raises(UsageError, match="expected a span with its unit: 30m, 6h, 2d or 1w") as caught:
        moments.span(text, "--since")
    assert caught.value.hint == ("--since 6d for days, 6h for hours" if text == "6" else "--since 6h")


def test_how_long_it_took() -> None:
    assert [moments.lasted(0, each) for each in (5, 65, 3723, 90061)] == [
        "0:05",
        "1:05",
        "1:02:03",
        "1-01:01:01",
    ]
    assert moments.lasted(None, 5) == "-"
