"""How nodes find and watch each other, on a clock that the tests turn."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from kit import files
from kit.errors import LaunchError
from runner import meeting
from runner.meeting import Ended, Meeting, Pulse


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(time, "monotonic", made)
    return made


def test_silence_is_measured_between_signs(tmp_path: Path, clock: Clock) -> None:
    watched = Meeting(tmp_path)
    assert watched.silence("1") == 0, "a node that was never heard is late, not dead"
    files.write(tmp_path / "alive-1", "1")
    for _ in range(4):
        clock.now += 1
        said = watched.silence("1")
    assert said == 3
    files.write(tmp_path / "alive-1", "2")
    clock.now += 1
    assert watched.silence("1") == 0


def test_a_reader_that_stood_still_does_not_call_others_dead(tmp_path: Path, clock: Clock) -> None:
    """A file system that hangs for a minute hangs for writers and readers."""
    watched = Meeting(tmp_path)
    files.write(tmp_path / "alive-1", "1")
    assert watched.silence("1") == 0
    clock.now += 60
    assert watched.silence("1") == meeting.STALL


def test_the_folder_is_listed_once_for_many_questions(tmp_path: Path, clock: Clock) -> None:
    watched = Meeting(tmp_path)
    assert not watched.joined(1)
    watched.join(1)
    assert watched.joined(1), "one's own word is seen at once"
    files.write(tmp_path / "joined-2", "")
    assert not watched.joined(2)
    clock.now += meeting.FRESH * 2
    assert watched.joined(2)


def test_a_big_job_lists_less_often(tmp_path: Path, clock: Clock) -> None:
    """A thousand nodes that list a thousand files twenty times a second would stop the file system."""
    for rank in range(1000):
        (tmp_path / f"joined-{rank}").touch()
    watched = Meeting(tmp_path)
    assert watched.joined(999)
    (tmp_path / "stop").touch()
    clock.now += 0.4
    assert watched.stopped() is None
    clock.now += 0.2
    assert watched.stopped() == ""


def test_the_first_end_stays(tmp_path: Path) -> None:
    watched = Meeting(tmp_path)
    watched.end(1, Ended(3, "first"))
    watched.end(1, Ended(4, "second"))
    assert watched.ended(1) == Ended(3, "first")


def test_an_end_that_cannot_be_read_is_a_bad_end(tmp_path: Path) -> None:
    files.write(tmp_path / "ended-1", "{")
    assert Meeting(tmp_path).ended(1) == Ended(LaunchError.code, "its end could not be read")


def test_what_the_batch_script_writes_is_understood(tmp_path: Path) -> None:
    """Its files come from bash: a text with a line's end, an empty file, and JSON by hand."""
    (tmp_path / "stop").write_text("SIGTERM came\n")
    (tmp_path / "warning").touch()
    (tmp_path / "ended-3").write_text('{"code":50,"why":"its container ended with exit code 137"}\n')
    told = Meeting(tmp_path)
    assert told.stopped() == "SIGTERM came" and told.warned()
    assert told.ended(3) == Ended(50, "its container ended with exit code 137")


def test_a_pulse_is_never_half_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting, "BEAT", 0.001)
    with Pulse(Meeting(tmp_path), "1"):
        deadline = time.monotonic() + 30
        seen: set[bytes] = set()
        while len(seen) < 20:
            assert time.monotonic() < deadline
            if (tmp_path / "alive-1").exists():
                seen.add((tmp_path / "alive-1").read_bytes())
    assert {len(each) for each in seen - {b""}} == {12}
    assert os.listdir(tmp_path) == ["alive-1"]  # noqa: PTH208


def test_waiting_names_what_it_waited_for() -> None:
    with pytest.raises(LaunchError, match="for Godot"):
        meeting.wait(lambda: None, awaited="Godot", seconds=0.1, check=lambda: None)


def test_an_event_is_not_slept_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a descriptor tells ends a turn, however long that is."""
    monkeypatch.setattr(meeting, "TURN", 20.0)
    monkeypatch.setattr(meeting, "SLOWEST", 20.0)
    reader, writer = os.pipe()
    answers = iter([None, "came"])

    def probe() -> str | None:
        os.write(writer, b"x")
        return next(answers)

    began = time.monotonic()
    found = meeting.wait(probe, awaited="it", seconds=30, check=lambda: None, wake=reader)
    os.close(reader)
    os.close(writer)
    assert found == "came" and time.monotonic() - began < 10
