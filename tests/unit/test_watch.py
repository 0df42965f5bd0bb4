"""Which runs are meant, and what status and history tell of them."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from kit.errors import EXIT_CODES, UnknownNameError, UsageError
from runner import run_names, submitter
from runner.meeting import Ended
from runner.watching import Watch
from tests.unit.parts_watch import OLD, Reached, Slurm, attempt, reached, record, row, run, runs, typed

__all__ = ["reached", "runs"]


def test_a_run_has_many_names(runs: Path) -> None:
    first = run(runs, "grpo", "0badcafe", made="20261120-120000")
    second = run(runs, "grpo", "12345678", made="20261121-120000")
    record(first, "77", "78")
    for word in ("0badcafe", "78", str(first.root), first.root.name, "grpo-20261120"):
        assert run_names.find(word, runs) == first, word
    assert run_names.find("12345678", runs) == second, "eight digits are an id first"
    assert run_names.find("last", runs) == second
    assert run_names.found(["last", "12345678"], runs) == [second]
    with pytest.raises(UsageError, match="beginning of 2 runs") as several:
        run_names.find("grpo", runs)
    assert several.value.hint == "the newest is 12345678"


@pytest.mark.parametrize(
    ("word", "hint"),
    [("grop", "did you mean 'grpo-20261121-120000-0badcafe'?"), ("999", "runner status --all")],
)
def test_a_run_that_is_not_there(runs: Path, word: str, hint: str) -> None:
    run(runs, "grpo")
    with pytest.raises(UnknownNameError) as none:
        run_names.find(word, runs)
    assert none.value.hint == hint


def test_a_path_that_is_no_run(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = typed(capsys, "status", str(runs))
    assert code == EXIT_CODES["NotFoundError"] and "is not a run folder" in err


def test_status_lists_what_counts(runs: Path, capsys: pytest.CaptureFixture[str], reached: Reached) -> None:
    going, over, old = run(runs, "a", "aaaaaaaa"), run(runs, "b", "bbbbbbbb"), run(runs, "c", "cccccccc")
    record(going, "10", "11")
    attempt(over, ended=Ended(3, "it failed"))
    over.result.write_text('{"code": 3}')
    old.result.write_text('{"code": 0}')
    os.utime(old.result, (OLD, OLD))
    slurm = reached(Slurm(
        row("10", "PENDING", "aaaaaaaa", reason="Priority"),
        row("11", "PENDING", "aaaaaaaa", reason="Dependency"),
        row("5", "RUNNING", name="notebook", nodes="n4"),
    ))  # fmt: skip
    code, out, err = typed(capsys, "status")
    lines = out.splitlines()
    assert code == 0 and slurm.questions == ["mine"], "Slurm is asked once"
    assert lines[0].split() == ["RUN", "STATE", "JOB", "NODES", "STARTED", "TOOK", "WHAT"]
    pending = next(line for line in lines if line.startswith(going.root.name))
    assert "pending" in pending and "10+1" in pending and pending.endswith("Priority")
    assert any("failed (3)" in line and line.endswith("it failed") for line in lines)
    assert any(line.startswith("(notebook)") and line.endswith("n4") for line in lines)
    assert old.root.name not in out and "1 that ended more than a day ago" in err
    code, out, _ = typed(capsys, "status", "--all", "--json")
    told = {each["name"]: each for each in json.loads(out)}
    assert set(told) == {"a", "b", "c", "notebook"}
    assert [each["state"] for each in told["a"]["jobs"]] == ["PENDING", "PENDING"]
    assert told["b"]["code"] == 3 and told["b"]["attempts"][0]["why"] == "it failed"


def test_status_of_one_run(runs: Path, capsys: pytest.CaptureFixture[str], reached: Reached) -> None:
    folder = run(runs, nodes=2)
    record(folder, "10")
    attempt(
        folder, job="10", hosts=("n1", "n2"), ended=Ended(1, "node 1 failed: its log\nA_KEY=private"), code=1
    )
    reached(Slurm(row("10", "FAILED", reason="NonZeroExitCode", nodes="n[1-2]")))
    code, out, _ = typed(capsys, "status", "0badcafe")
    assert code == 0 and "state      failed (1): node 1 failed: its log" in out
    assert "10  failed, NonZeroExitCode, n[1-2]" in out and "10 on n1 n2" in out


def test_status_without_slurm_and_with_one_that_is_away(
    runs: Path, capsys: pytest.CaptureFixture[str], reached: Reached
) -> None:
    folder = run(runs)
    record(folder, "10")
    attempt(folder, job="10")
    code, out, err = typed(capsys, "status")
    assert code == 0 and "running" in out and "note: Slurm is not asked: no way from here to Slurm" in err
    reached(Slurm(away=True))
    code, out, err = typed(capsys, "status", "last")
    assert code == 0 and "running: command started" in out and "note: Slurm does not answer" in err


def test_no_runs_at_all(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = typed(capsys, "status")
    assert (code, out) == (0, "") and "there is no run in" in err and "note:" not in err
    assert typed(capsys, "status", "--json")[1] == "[]\n"


def test_a_broken_submission_is_healed(
    runs: Path, capsys: pytest.CaptureFixture[str], reached: Reached
) -> None:
    import platform

    folder = run(runs)
    here = submitter.own().namespace
    record(folder, state="submitting", wanted=1, host=platform.node(), namespace=here)
    reached(Slurm(row("10", "PENDING", reason="Priority", comment="slipworks:0badcafe:0")))
    assert "pending: Priority" in typed(capsys, "status", "last")[1]
    assert json.loads(folder.submission.read_bytes())["jobs"][0]["id"] == "10"


def test_what_ended_before_it_began_keeps_no_secret(runs: Path, reached: Reached) -> None:
    folder = run(runs)
    record(folder, "10")
    folder.secrets.write_text("{}")
    folder.token.write_text("x")
    slurm = Slurm(row("10", "PENDING"))
    watch = Watch(lambda: slurm)
    assert watch.state(folder).state == "pending" and folder.secrets.exists()
    slurm.rows["10"] = row("10", "CANCELLED")
    assert watch.anew(folder).state == "cancelled"
    assert not folder.secrets.exists() and not folder.token.exists()


def test_the_accounting_knows_what_the_queue_has_forgotten(runs: Path) -> None:
    folder = run(runs)
    record(folder, "10")
    attempt(folder, job="10", code=143, alive=False).stop("Slurm ended the job (SIGTERM)")
    slurm = Slurm(past=[row("10", "TIMEOUT", ended=time.time())])
    assert Watch(lambda: slurm).state(folder).why == "the time limit"
    assert Watch(lambda: Slurm()).state(folder).why == "Slurm ended the job (SIGTERM)", "no accounting"


def test_history_counts_in_seconds(runs: Path, capsys: pytest.CaptureFixture[str], reached: Reached) -> None:
    ages = {"a": 5, "b": 7, "c": 30}
    for name, hours in ages.items():
        folder = run(runs, name, name * 8)
        attempt(folder, ended=Ended(1, "so"))
        folder.result.write_text('{"code": 1}' if name == "a" else '{"code": 0}')
        for path in (folder.result, folder.attempt(1).meeting / "ended-0"):
            os.utime(path, (time.time() - hours * 3600,) * 2)
    going = run(runs, "d", "dddddddd")
    attempt(going)

    def listed(*words: str) -> str:
        code, out, _ = typed(capsys, "history", "--json", *words)
        assert code == 0
        return "".join(each["name"] for each in json.loads(out))

    assert listed("--since", "6h") == "a", "six hours, not whole days"
    assert listed("--since", "8h") == "ab" and listed() == "abc"
    assert listed("--failed") == "a" and listed("--completed") == "bc" and listed("--cancelled") == ""
    out = typed(capsys, "history", "--failed", "--since", "6h")[1]
    assert "failed (1)" in out and out.rstrip().endswith("so")
    assert "none in the last 1m" in typed(capsys, "history", "--since", "1m")[2]


def test_history_by_the_accounting(runs: Path, capsys: pytest.CaptureFixture[str], reached: Reached) -> None:
    folder = run(runs)
    record(folder, "10")
    attempt(folder, job="10", alive=False)
    reached(Slurm(past=[row("10", "NODE_FAIL", started=time.time() - 60, ended=time.time())]))
    code, out, _ = typed(capsys, "history", "--failed")
    assert code == 0 and "a node failed" in out
    reached(Slurm())
    assert "lost" in typed(capsys, "history", "--failed", "--json")[1]


def test_status_with_the_ends_of_logs_and_checkpoints(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As the old status had them: newest logs, their ends, checkpoints."""
    folder, bare = run(runs, "a", "aaaaaaaa"), run(runs, "b", "bbbbbbbb")
    attempt(folder, 1, log="of attempt 1\n")
    attempt(folder, 2, log="one\ntwo\r\n10%\r20%\n\nfour\n")
    scratch = runs.parent / "scratch"
    for step in (9, 10):
        (scratch / f"global_step_{step}").mkdir(parents=True)
        os.utime(scratch / f"global_step_{step}", (OLD + step, OLD + step))
    (folder.root / "checkpoints").symlink_to(scratch)
    (bare.root / "checkpoints").symlink_to(runs / "gone")
    code, out, _ = typed(capsys, "status", "--tail", "3")
    assert (
        code == 0 and f"--- {folder.attempt(2).log(0)}\ntwo\n20%\nfour\n" in out and "of attempt" not in out
    )
    assert f"checkpoints: {scratch}\nnewest: global_step_10, " in out
    out = typed(capsys, "status", "aaaaaaaa")[1]
    assert "global_step_10" in out and "four" not in out
    assert "checkpoints" not in typed(capsys, "status", "bbbbbbbb", "--tail", "1")[1]
    assert "--tail takes a number of lines" in typed(capsys, "status", "--tail", "0")[2]
