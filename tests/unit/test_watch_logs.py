"""A run's log, whole and as it grows."""

from __future__ import annotations

import io
import json
import threading
from pathlib import Path

import pytest

from kit.errors import EXIT_CODES
from runner import cli, following
from runner.meeting import Ended
from runner.watching import Watch
from tests.unit.parts_watch import Slurm, attempt, reached, record, row, run, runs, typed, until

__all__ = ["reached", "runs"]


def test_logs_of_nodes_and_attempts(runs: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    folder = run(runs, nodes=2)
    attempt(folder, 1, log="first\n")
    attempt(folder, 2, hosts=("n1", "n2.site"), job="10")
    folder.attempt(2).log(0).write_bytes(b"10%\r20%\xff\nno end")
    folder.attempt(2).log(1).write_text("second node\n")

    def printed(*words: str) -> bytes:
        assert cli.main(["logs", "last", *words]) == 0
        return capfdbinary.readouterr().out

    assert printed() == b"10%\r20%\xff\nno end\n"
    assert printed("--attempt", "1") == b"first\n"
    assert printed("--node", "1") == printed("--node", "n2") == b"second node\n"
    told = json.loads(printed("--json"))
    assert [(each["attempt"], each["node"]) for each in told] == [(1, 0), (2, 0), (2, 1)]


def test_logs_of_services(runs: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    folder = run(runs, nodes=2)
    attempt(folder, 1, log="x\n")
    attempt(folder, 2, log="x\n")
    folder.attempt(1).service_log("judge", 0).write_text("of the first\n")
    folder.attempt(2).service_log("judge", 1).write_text("of the last\n")
    assert cli.main(["logs", "last", "--service", "judge", "--node", "1"]) == 0
    assert capfdbinary.readouterr().out == b"of the last\n"
    assert cli.main(["logs", "last", "--service", "judge", "--attempt", "1"]) == 0
    assert capfdbinary.readouterr().out == b"of the first\n"
    assert cli.main(["logs", "last", "--service", "judge"]) == EXIT_CODES["NotFoundError"]
    assert b"node 0 has no log of a service judge; there is judge-1" in capfdbinary.readouterr().err


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("--node", "2"), "has no node 2: expected 0 to 1"),
        (("--node", "n7"), "unknown node 'n7'"),
        (("--attempt", "3"), "unknown attempt '3'"),
        (("--node", "1"), "is not there yet"),
        (("-f", "--attempt", "1"), "--follow goes from attempt to attempt"),
    ],
)
def test_logs_that_are_not_there(
    runs: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], error: str
) -> None:
    folder = run(runs, nodes=2)
    attempt(folder, 1, job="10", hosts=("n1", "n2"), log="x\n")
    code, out, err = typed(capsys, "logs", "last", *words)
    assert code != 0 and not out and error in err and len(err.splitlines()) <= 2


def test_no_attempt_no_log(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record(run(runs), "10")
    code, _, err = typed(capsys, "logs", "10")
    assert code == EXIT_CODES["NotFoundError"] and "has made no attempt, so there is no log" in err


def test_follow_goes_from_attempt_to_attempt(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As the batch scripts of a chain write it, while it is followed."""
    folder = run(runs)
    record(folder, "10", "11")
    slurm = Slurm(row("10", "PENDING", reason="Priority"), row("11", "PENDING"))
    watch, out = Watch(lambda: slurm), io.BytesIO()
    follow = following.Follow(folder, "0", lambda: watch.anew(folder), out)
    thread = threading.Thread(target=follow.run)
    thread.start()
    attempt(folder, 1, job="10", log="one\n")
    until(lambda: b"one\n" in out.getvalue())
    with folder.attempt(1).log(0).open("a") as log:
        log.write("half")
    until(lambda: b"half" in out.getvalue())
    attempt(folder, 1, job="10", ended=Ended(1), code=1)
    attempt(folder, 2, job="11", log="two\n")
    until(lambda: b"two\n" in out.getvalue())
    folder.finished.write_text("succeeded\n")
    with folder.attempt(2).log(0).open("a") as log:
        log.write("three")
    attempt(folder, 2, job="11", ended=Ended(0), code=0)
    thread.join(20)
    assert not thread.is_alive() and out.getvalue() == b"one\nhalf\ntwo\nthree\n"
    said = capsys.readouterr().err
    assert "has made no attempt yet; it is pending: Priority" in said and "attempt 2 on n1\n" in said
    assert slurm.questions == ["mine"], "what files tell is not asked of Slurm"


def test_follow_of_what_has_ended_ends(runs: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    folder = run(runs)
    attempt(folder, log="all\n")
    folder.result.write_text('{"code": 3}')
    assert cli.main(["logs", "-f", "last"]) == 0
    assert capfdbinary.readouterr().out == b"all\n"


def test_follow_hears_from_slurm_of_an_end_without_a_word(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "ASK", 0.2)
    folder = run(runs)
    record(folder, "10")
    attempt(folder, job="10", log="x\n", alive=False)
    slurm = Slurm(row("10", "RUNNING"))
    watch, out = Watch(lambda: slurm), io.BytesIO()
    follow = following.Follow(folder, "0", lambda: watch.anew(folder), out)
    thread = threading.Thread(target=follow.run)
    thread.start()
    until(lambda: len(slurm.questions) > 1)
    slurm.rows["10"] = row("10", "NODE_FAIL")
    thread.join(20)
    assert not thread.is_alive() and follow.now.why == "a node failed"
