"""`runner why` and the line at the end of a failed run's log: failures that are known by their logs."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest

from runner.meeting import Ended
from runner.runs import RunFolder
from runner.why import failures, searching
from tests.unit.parts_watch import Reached, Slurm, attempt, reached, record, row, run, runs, typed

__all__ = ["reached", "runs"]

EXCERPTS = Path(__file__).with_name("recorded") / "failures"
NAMES = [each.name for each in failures.known()]
FROZEN = (EXCERPTS / "frozen-agent.txt").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_each_is_known_by_its_excerpt(name: str) -> None:
    """Colours and Ray's prefixes are in the excerpts, and in no line that is quoted."""
    seen = failures.seen((EXCERPTS / f"{name}.txt").read_bytes())
    assert failures.told(seen)[0].name == name, seen
    place = seen[name]
    assert "\x1b" not in place.text and not re.match(r"\((?!raylet\))[\w ]*pid=", place.text), place.text
    assert place.line >= 1 and place.times >= 1


@pytest.mark.parametrize("name", NAMES)
def test_no_excerpt_is_taken_for_something_else(name: str) -> None:
    """Beside what follows from it, an excerpt has one failure."""
    raw = (EXCERPTS / f"{name}.txt").read_bytes()
    assert [each.name for each in failures.told(failures.seen(raw))] == [name]


def test_a_healthy_log_has_none() -> None:
    assert failures.seen((EXCERPTS / "healthy.txt").read_bytes()) == {}
    assert failures.seen(b"") == {}


def test_excerpts_and_failures_are_the_same() -> None:
    assert {file.stem for file in EXCERPTS.iterdir()} == {*NAMES, "healthy"}
    assert len(NAMES) == len(set(NAMES)) >= 30


@pytest.mark.parametrize("failure", failures.known(), ids=lambda each: each.name)
def test_each_says_cause_fix_and_source_in_a_line(failure: failures.Failure) -> None:
    for text in (failure.cause, failure.fix, failure.source):
        assert text and "\n" not in text and len(text) < 200
    assert set(failure.hides) <= set(NAMES) - {failure.name}
    assert all(words.strip() == words and len(words) > 8 for words in failure.words)


def test_any_bytes_are_a_log() -> None:
    raw = b"\xff\x00\r10%\r20%\r\nRay\x1b]0;title\x07: oom_kill event in\x1b[K\xfe" + b"x" * 5000
    place = failures.seen(raw)["oom-kill"]
    assert place.text.startswith("Ray: oom_kill event in") and len(place.text) <= failures.LONGEST


def test_a_long_log_is_looked_through_quickly() -> None:
    raw = (EXCERPTS / "healthy.txt").read_bytes() * 8000 + FROZEN.encode()
    began = time.monotonic()
    found = failures.seen(raw)
    assert list(found) == ["frozen-agent"] and len(raw) > 13e6
    assert time.monotonic() - began < 10


def failed(runs: Path, log: str = FROZEN) -> RunFolder:
    folder = run(runs, nodes=2)
    record(folder, "10")
    attempt(folder, job="10", hosts=("holygpu1", "holygpu2"), log="starting\n", code=1, ended=Ended(1))
    folder.attempt(1).log(1).write_text(log)
    folder.finished.write_text("no step was made\n")
    return folder


def test_why_names_cause_fix_source_and_place(
    runs: Path, reached: Reached, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = failed(runs)
    reached(Slurm(row("10", "FAILED", code=1)))
    code, out, err = typed(capsys, "why", "last")
    assert code == 0 and not err
    assert "state  failed (1)" in out and "\nfrozen-agent\n" in out
    assert f"{folder.attempt(1).log(1)}:8" in out
    assert "frozen pydantic model" in out and "object.__setattr__" in out and "pull request 1632" in out
    code, out, _ = typed(capsys, "why", "10", "--json")
    told = json.loads(out)
    assert (told["state"], told["code"]) == ("failed", 1)
    (only,) = told["failures"]
    assert (only["name"], only["line"], only["times"]) == ("frozen-agent", 8, 1)
    assert only["text"].startswith("Instance is frozen [type=frozen_instance")


def test_a_failed_runs_log_ends_with_a_note(
    runs: Path, reached: Reached, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = failed(runs)
    reached(Slurm(row("10", "FAILED", code=1)))
    for words in (("last",), ("last", "--node", "1"), ("last", "-f"), ("last", "--attempt", "1")):
        code, out, err = typed(capsys, "logs", *words)
        assert code == 0 and "note:" not in out
        (line,) = [each for each in err.splitlines() if each.startswith("note: ")]
        assert line.startswith("note: frozen-agent: the code sets an attribute")
        assert line.endswith(f"runner why {folder.run_id}")


def test_a_failed_attempts_log_ends_with_a_note_while_the_chain_goes_on(
    runs: Path, reached: Reached, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = failed(runs)
    folder.finished.unlink()
    attempt(folder, 2, job="11", log="going on\n")
    record(folder, "10", "11")
    reached(Slurm(row("10", "FAILED", code=1), row("11", "RUNNING")))
    assert typed(capsys, "logs", "last")[2] == ""
    assert typed(capsys, "logs", "last", "--attempt", "1")[2].startswith("note: frozen-agent: ")


def test_nothing_known_is_said_so(runs: Path, reached: Reached, capsys: pytest.CaptureFixture[str]) -> None:
    folder = failed(runs, "KeyError: 'mine'\n")
    reached(Slurm(row("10", "FAILED", code=1)))
    _, out, err = typed(capsys, "why", "last")
    assert "failed" in out and f"nothing that is known shows in 3 log(s): runner logs {folder.run_id}" in err
    assert typed(capsys, "logs", "last")[2] == ""


def test_a_run_that_ended_well_is_not_looked_through(
    runs: Path, reached: Reached, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = failed(runs)
    folder.finished.write_text("succeeded\n")
    folder.attempt(1).job_log.write_text("attempt 1 ended with exit code 0\n")
    reached(Slurm(row("10", "COMPLETED", code=0)))
    code, out, err = typed(capsys, "why", "last")
    assert (code, err) == (0, "") and "completed" in out and "frozen" not in out
    assert "frozen-agent" in typed(capsys, "why", "last", "--attempt", "1")[1], "where it is asked for"
    assert typed(capsys, "logs", "last")[2] == ""


def test_slurms_own_word_services_and_rays_logs_count(
    runs: Path, reached: Reached, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = failed(runs, "")
    folder.attempt(1).service_log("judge", 0).write_text("OSError: [Errno 122] Disk quota exceeded: 'x'\n")
    ray = folder.attempt(1).ray_logs(1) / "session_1/logs"
    ray.mkdir(parents=True)
    (ray / "worker-1.err").write_text("AssertionError: Torch not compiled with CUDA enabled\n")
    (ray / "binary").write_text("No CUDA GPUs are available\n")
    (folder.root / "slurm-10.out").write_text("slurmstepd: error: CANCELLED AT x DUE TO TIME LIMIT ***\n")
    (folder.root / "slurm-9.out").write_text("toomanyrequests\n")
    reached(Slurm(row("10", "OUT_OF_MEMORY", code=1)))
    told = json.loads(typed(capsys, "why", "last", "--json")[1])
    names = [each["name"] for each in told["failures"]]
    assert names == ["cpu-torch", "oom-kill", "quota", "time-limit"]
    assert [each["log"] is None for each in told["failures"]] == [False, True, False, False]


def test_another_attempt_has_other_failures(
    runs: Path, reached: Reached, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = failed(runs)
    attempt(folder, 2, job="11", log=(EXCERPTS / "duplicate-gpu.txt").read_text(), code=1)
    record(folder, "10", "11")
    reached(Slurm(row("10", "FAILED", code=1), row("11", "FAILED", code=1)))

    def names(*words: str) -> list[str]:
        told = json.loads(typed(capsys, "why", "last", "--json", *words)[1])
        return [each["name"] for each in told["failures"]]

    assert names() == ["duplicate-gpu"]
    assert names("--attempt", "1") == ["frozen-agent"]
    code, _, err = typed(capsys, "why", "last", "--attempt", "7")
    assert code == 10 and "unknown attempt '7'" in err


def test_of_a_huge_log_the_end_is_read(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from runner.watching import Watch

    folder = failed(runs)
    monkeypatch.setattr(searching, "END", 400)
    (found,), _ = searching.search(Watch().by_files(folder))
    assert found.failure.name == "frozen-agent" and found.line is None
