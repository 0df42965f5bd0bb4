"""How sandboxes of a desk end: idle, at their longest time, with the desk; of the ended little is kept."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from kit.errors import BusyError
from runner.sandboxes import records
from tests.unit.parts_desk import Engine, Gallery, made, reached, until, wish
from tests.unit.parts_desk_begun import engine, gallery

__all__ = ["engine", "gallery"]


def test_the_idle_end_and_the_busy_do_not(tmp_path: Path, engine: Engine) -> None:
    now = [1000.0]
    desk = made(tmp_path, engine, idle=60.0, clock=lambda: now[0])
    ids = [desk.start(wish(name)).id for name in ("asked", "busy", "idle", "silent")]
    for name in ("asked", "busy", "idle", "silent"):
        reached(desk, name, "ready")
    engine.idle = {ids[1]: 3.0, ids[2]: 3600.0}
    now[0] = 1060.0
    desk.find("asked")
    desk.watch.look()
    until(lambda: len(engine.stopped) == 2)
    phases = {each.wish.session: each.phase for each in desk.sessions()}
    assert phases == {"asked": "ready", "busy": "ready"}
    assert desk.known(ids[2]).why == "it was idle for 60 s"  # type: ignore[union-attr]
    until(lambda: all(desk.node.table.one(id).gone.is_set() for id in ids[2:]))
    desk.watch.look()
    assert not desk.watch._asked, "of the ended ones nothing is kept"
    now[0] = 1118.0  # 58 s after it was asked for, 61 s after the other was busy
    engine.idle[ids[1]] = 61.0
    desk.watch.look()
    until(lambda: len(desk.sessions()) == 1)
    desk.close()


def test_a_sandbox_that_keeps_us_waiting_is_ended_at_its_time(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered, asked = threading.Event(), threading.Event()

    def idle(self: object) -> float:
        asked.set()
        answered.wait(10)
        return 0.0

    now = [1000.0]
    desk = made(tmp_path, engine, longest=100.0, idle=10.0, clock=lambda: now[0])
    desk.start(wish())
    reached(desk, "one", "ready")
    monkeypatch.setattr("tests.unit.parts_desk.Agent.idle", idle)
    now[0] = 1050.0
    desk.watch.look()
    assert asked.wait(10)
    now[0] = 1100.0
    desk.watch.look()
    assert "the longest" in reached(desk, "one", "stopped").why
    answered.set()
    desk.close()


def test_the_longest_time_ends_also_the_busy(tmp_path: Path, engine: Engine) -> None:
    now = [1000.0]
    desk = made(tmp_path, engine, longest=100.0, idle=0.0, clock=lambda: now[0])
    id = desk.start(wish()).id
    reached(desk, "one", "ready")
    engine.idle[id], now[0] = 0.0, 1100.0
    desk.watch.look()
    found = reached(desk, "one", "stopped")
    assert found.why == "it lived for 100 s, the longest that is allowed"
    desk.close()


def test_of_the_ended_only_the_last_are_remembered(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.sandboxes.table.KEPT", 2)
    desk = made(tmp_path, engine)
    ids = []
    for number in range(4):
        ids.append(desk.start(wish(f"s{number}")).id)
        reached(desk, f"s{number}", "ready")
        desk.stop(ids[-1])
    desk.watch.look()
    assert [desk.known(id) is not None for id in ids] == [False, False, True, True]
    assert desk.find("s0") is None and len(records.read(tmp_path)) == 2
    desk.close()


def test_close_ends_all_and_begins_nothing(tmp_path: Path, engine: Engine, gallery: Gallery) -> None:
    desk = made(tmp_path, engine, gallery, slots=3, queue=60.0)
    desk.recover()
    for name in "abcd":
        desk.start(wish(name))
    for name in "abc":
        reached(desk, name, "ready")
    engine.containers["f" * 16] = "running"
    desk.close()
    desk.close()
    assert not engine.containers and len(engine.started) == 3
    assert {each.phase for each in records.read(tmp_path)} == {"stopped"}
    with pytest.raises(BusyError, match="the server is ending"):
        desk.start(wish("e"))


def test_what_nobody_foresaw_of_one_keeps_no_other_from_its_end(
    tmp_path: Path, engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    desk = made(tmp_path, engine)
    desk.recover()
    ids = [desk.start(wish(name)).id for name in "abc"]
    for name in "abc":
        reached(desk, name, "ready")
    engine.odd.add(ids[0])
    desk.close()
    assert list(engine.containers) == ids[:1] and sorted(engine.stopped) == sorted(ids[1:])
    assert "ZeroDivisionError" in capsys.readouterr().err
