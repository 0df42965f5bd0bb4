"""What cancel, clean and attach do, and what they leave alone."""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from kit import exact, process, say
from kit.errors import EXIT_CODES, MissingToolError
from runner import cancelling, entering, run_files, slurm_rows, watching
from runner.after import submitting
from runner.chosen import Chosen
from runner.meeting import Ended
from runner.runs import RunFolder
from runner.watching import Watch
from tests.unit.parts_watch import OLD, Reached, Slurm, attempt, reached, record, row, run, runs, typed

__all__ = ["reached", "runs"]


def test_cancel_ends_the_whole_chain_last_job_first(
    runs: Path, capsys: pytest.CaptureFixture[str], reached: Reached
) -> None:
    folder = run(runs)
    record(folder, "10", "11", "12")
    folder.secrets.write_text("{}")
    attempt(folder, job="10")
    slurm = reached(Slurm(row("10", "RUNNING"), row("11", "PENDING"), row("12", "PENDING")))
    before: list[str] = []
    honest = slurm.cancel

    def cancel(ids: Sequence[str]) -> None:
        before.append(folder.finished.read_text())
        honest(ids)

    slurm.cancel = cancel  # type: ignore[method-assign]
    code, out, _ = typed(capsys, "cancel", "last")
    assert code == 0 and slurm.cancelled == ["12", "11", "10"] and "job 12 11 10" in out
    assert before == ["cancelled\n"], "no attempt may follow, before Slurm hears of it"
    assert folder.secrets.exists(), "its script takes them away when its nodes have ended"


def test_cancel_of_what_waits_takes_its_secrets(runs: Path, reached: Reached) -> None:
    folder = run(runs)
    record(folder, "10")
    folder.secrets.write_text("{}")
    slurm = Slurm(row("10", "PENDING"))
    cancelling.cancel(Watch(lambda: slurm).state(folder), slurm)
    assert slurm.cancelled == ["10"] and not folder.secrets.exists()


def test_cancel_of_what_has_ended_changes_nothing(
    runs: Path, capsys: pytest.CaptureFixture[str], reached: Reached
) -> None:
    folder = run(runs)
    record(folder, "10", "11")
    folder.finished.write_text("succeeded\n")
    slurm = reached(Slurm(row("10", "COMPLETED"), row("11", "CANCELLED")))
    code, out, _ = typed(capsys, "cancel", "last")
    assert code == 0 and "had ended already: completed" in out and not slurm.cancelled
    assert folder.finished.read_text() == "succeeded\n"
    slurm.rows["11"] = row("11", "PENDING")
    assert cancelling.cancel(Watch(lambda: slurm).state(folder), slurm).jobs == ("11",), "what is left of it"
    assert folder.finished.read_text() == "succeeded\n"


def test_more_than_one_is_asked_about(
    runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [run(runs, "a", "aaaaaaaa"), run(runs, "b", "bbbbbbbb")]
    for each in folders:
        attempt(each)
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    code, out, err = typed(capsys, "cancel", "a", "b")
    assert (
        code == 2
        and "2 runs would be cancelled: a-" in err
        and "hint: runner cancel --yes RUN" in err
        and not out
    )
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("sys.stdin.readline", lambda: "\n")
    assert typed(capsys, "cancel", "a", "b")[0] == 2
    assert not any(each.finished.exists() for each in folders)
    monkeypatch.setattr("sys.stdin.readline", lambda: "Y\n")
    assert typed(capsys, "cancel", "a", "b", "a")[0] == 0
    for each in folders:
        assert (each.attempt(1).meeting / "stop").read_text() == "cancelled"
    assert typed(capsys, "cancel", "--yes", "a", "b", "--json")[0] == 0


def test_cancel_without_slurm_goes_through_the_run_folder(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run(runs)
    record(folder, "10", "11")
    attempt(folder, job="10")
    code, _, err = typed(capsys, "cancel", "10")
    assert code == 0 and "jobs of j-20261121-120000-0badcafe that wait end as soon as they start" in err
    assert folder.finished.read_text() == "cancelled\n" and (folder.attempt(1).meeting / "stop").exists()


def test_a_job_that_is_no_run_is_not_cancelled(
    runs: Path, capsys: pytest.CaptureFixture[str], reached: Reached
) -> None:
    slurm = reached(Slurm(row("5", "RUNNING", name="notebook")))
    code, _, err = typed(capsys, "cancel", "5")
    assert code == EXIT_CODES["UnknownNameError"] and "has the Slurm job 5" in err and not slurm.cancelled


def logged(runs: Path, name: str, id: str) -> RunFolder:
    """An old run with all kinds of files."""
    folder = run(runs, name, id)
    meeting = attempt(folder, log="x" * 1000, code=0)
    made = folder.attempt(1)
    for path in (made.ray_log(0), made.service_log("judge", 0), folder.root / "slurm-10.out"):
        path.write_text("y" * 100)
    made.ray_logs(0).mkdir()
    (made.ray_logs(0) / "raylet.out").write_text("z" * 100)
    for kept in (folder.artifacts / "a.bin", folder.code / "0/x.py"):
        kept.parent.mkdir(parents=True)
        kept.write_text("kept")
    meeting.end(0, Ended(0))
    folder.result.write_text('{"code": 0}')
    for path in [*folder.root.rglob("*")]:
        os.utime(path, (OLD, OLD), follow_symlinks=False)
    return folder


def test_clean_removes_old_logs_and_nothing_else(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = logged(runs, "old", "aaaaaaaa")
    new = run(runs, "new", "bbbbbbbb")
    attempt(new, log="n")
    new.result.write_text('{"code": 0}')
    running = logged(runs, "run", "cccccccc")
    running.result.unlink()
    (running.attempt(1).meeting / "alive-0").touch()
    before = {path for path in runs.rglob("*")}
    code, out, _ = typed(capsys, "clean", "--older-than", "30d", "--dry-run", "--json")
    (told,) = json.loads(out)
    assert code == 0 and told["run"] == old.root.name and told["size"] == 1400
    assert {path for path in runs.rglob("*")} == before, "a dry run removes nothing"
    assert typed(capsys, "clean", "--older-than", "30d")[1].endswith("freed 0.0 MB\n")
    gone = {str(path.relative_to(old.root)) for path in before - set(runs.rglob("*"))}
    assert gone == {
        "slurm-10.out", "attempt-1/node-0.log", "attempt-1/ray-0.log", "attempt-1/service-judge-0.log",
        "attempt-1/ray-0", "attempt-1/ray-0/raylet.out",
    }  # fmt: skip
    assert Watch().state(old).state == "completed", "how it went stays known"
    assert typed(capsys, "clean", "--older-than", "30d")[1] == "freed 0.0 MB\n"
    assert "was removed" in typed(capsys, "logs", "old")[2]


def test_clean_all_takes_whole_folders_but_no_link_s_target(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, outside = logged(runs, "old", "aaaaaaaa"), runs.parent / "precious"
    outside.mkdir()
    (outside / "checkpoint").write_text("x")
    (old.root / "image").symlink_to(outside)
    (old.artifacts / "link").symlink_to(outside)
    unknown = logged(runs, "unknown", "bbbbbbbb")
    unknown.result.unlink()
    record(unknown, "10", "11")
    assert typed(capsys, "clean", "--older-than", "30d", "--all")[0] == 0
    assert not old.root.exists() and (outside / "checkpoint").exists()
    assert unknown.attempt(1).log(0).exists(), "whose end nobody knows"


def test_clean_all_leaves_what_the_upload_behind_it_reads(
    runs: Path, capsys: pytest.CaptureFixture[str], reached: Reached
) -> None:
    """It would find no word of how the run went, and upload nothing."""
    old, after = logged(runs, "old", "aaaaaaaa"), run(runs, "old-upload", "bbbbbbbb")
    record(after, "11")
    (old.root / submitting.FILE).write_text(json.dumps({"run": after.root.name}))
    reached(Slurm(row("11", "PENDING", comment="slipworks:bbbbbbbb:0")))
    for words in (("aaaaaaaa",), ("--older-than", "30d")):
        say._said.clear()
        code, out, err = typed(capsys, "clean", *words, "--all")
        assert code == 0 and out == "freed 0.0 MB\n" and old.attempt(1).log(0).exists()
        told = f"{old.root.name} is left as it is: {after.root.name}, which comes after it, has not ended"
        assert err.count("is left as it is") == 1 and told in err
    after.finished.write_text("succeeded\n")
    reached(Slurm())
    assert typed(capsys, "clean", "aaaaaaaa", "--all")[0] == 0
    assert not old.root.exists() and after.root.exists()


def test_attach_to_what_does_not_run(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run(runs)
    attempt(folder)
    folder.result.write_text('{"code": 0}')
    code, _, err = typed(capsys, "attach", "last", "--", "ls", "-l", "--json")
    assert code == EXIT_CODES["NotFoundError"] and "does not run: it is completed" in err
    code, _, err = typed(capsys, "attach", str(folder.root), "--here", "--node", "0")
    assert code == EXIT_CODES["NotFoundError"] and "node 0 of this run does not run on this machine" in err


def test_attach_is_a_step_of_the_job(runs: Path) -> None:
    folder = run(runs, nodes=2)
    record(folder, "10")
    attempt(folder, job="10", hosts=("n1", "n2"))
    layer = "/cache/layer's.sqfs"
    folder.image.write_bytes(exact.encode(Chosen(reference="/x.sif", engine="apptainer", layer=layer)))
    words = entering.step_words(run_files.read(folder), "10", "n2", 1, ["cat", "a b"], terminal=True)
    assert (
        words[:6] == ["--jobid=10", "--quiet", "--overlap", "--nodes=1", "--ntasks=1", "--nodelist=n2"]
        and "--pty" in words
    )
    inside = words.index("/x.sif") + 1
    assert words[inside:] == [
        "/slipworks/bin/runner", "attach", "--here", "/slipworks-run", "--node", "1", "--", "cat", "a b"
    ]  # fmt: skip
    assert f"--mount=type=bind,source={layer},target=/slipworks,image-src=/,ro" in words
    assert not any("private" in word for word in words)


def test_the_step_finds_its_engine_and_modules(tmp_path: Path) -> None:
    """The line of bash that stands before the engine's command, in a real bash."""

    def ran(*words: str, before: str = "") -> process.Result:
        argv = ["/bin/bash", "-c", before + entering.ENTER, "attach", *words]
        return process.run(argv, what="test", check=False)

    done = ran("0", "/bin/echo", "a b", "$x")
    assert (done.code, done.out) == (0, "a b $x\n"), done
    module = 'module() { echo loading "$@"; [ "$2" != none ]; }\n'
    done = ran("2", "gcc 1", "apptainer", "/bin/echo", "it", before=module)
    assert (done.code, done.out, done.err) == (0, "it\n", "loading load gcc 1\nloading load apptainer\n")
    assert ran("1", "none", "/bin/echo", "it", before=module).code == 20
    assert ran("1", "x", "/bin/echo", "it").out == "it\n", "a site without modules"


def test_reach_is_quick_and_says_what_is_missing(runs: Path) -> None:
    began = time.monotonic()
    with pytest.raises(MissingToolError, match="no way from here to Slurm"):
        slurm_rows.reach()
    assert time.monotonic() - began < 2
    assert watching.Watch().slurm is None


def test_cancel_all_asks_even_for_one_and_leaves_other_jobs(
    runs: Path, capsys: pytest.CaptureFixture[str], reached: Reached, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old scancelall asked nothing, and ended a user's other jobs too."""
    going, over = run(runs, "a", "aaaaaaaa"), run(runs, "b", "bbbbbbbb")
    record(going, "10")
    attempt(going, job="10")
    record(over, "12", state="failed")
    slurm = reached(Slurm(row("10", "RUNNING", "aaaaaaaa"), row("5", "RUNNING", name="notebook")))
    code, _, err = typed(capsys, "cancel", "--all")
    assert code == 2 and "1 run would be cancelled: a-" in err and not slurm.cancelled
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("sys.stdin.readline", lambda: "n\n")
    assert typed(capsys, "cancel", "--all")[0] == 2 and not slurm.cancelled
    monkeypatch.setattr("sys.stdin.readline", lambda: "y\n")
    code, out, _ = typed(capsys, "cancel", "--all")
    assert code == 0 and slurm.cancelled == ["10"] and over.root.name not in out
    for words in ((), ("a", "--all")):
        assert "expected runs, or --all" in typed(capsys, "cancel", *words)[2]


def test_clean_by_names_and_not_by_numbers_in_them(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The old rmlogs took every log with such a number anywhere in its name."""
    one, other, going = (
        logged(runs, "j12", "aaaaaaaa"),
        logged(runs, "j120", "bbbbbbbb"),
        run(runs, "j", "cccccccc"),
    )
    for folder, job in ((one, "12"), (other, "120")):
        record(folder, job)
        folder.finished.write_text("succeeded\n")
    attempt(going, log="x")
    assert typed(capsys, "clean", "120")[0] == 0
    assert one.attempt(1).log(0).exists() and not other.attempt(1).log(0).exists()
    code, out, err = typed(capsys, "clean", "cccccccc")
    assert code == 0 and out == "freed 0.0 MB\n" and f"{going.root.name} is left as it is" in err
    assert going.attempt(1).log(0).exists()
    assert "expected one of: runs, --older-than, --before" in typed(capsys, "clean")[2]
    assert "expected one of" in typed(capsys, "clean", "j12", "--older-than", "1d")[2]


def test_clean_before_a_run(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = logged(runs, "z", "aaaaaaaa")
    older = run(runs, "a", "bbbbbbbb", made="20261120-235959")
    attempt(older, log="x", ended=Ended(0), code=0)
    older.result.write_text('{"code": 0}')
    code, out, _ = typed(capsys, "clean", "--before", "aaaaaaaa", "--json")
    assert code == 0 and [each["run"] for each in json.loads(out)] == [older.root.name]
    assert kept.attempt(1).log(0).exists() and not older.attempt(1).log(0).exists()
