"""What fails at a desk: each sandbox says why, its slot is free again, and all others go on."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from kit.errors import HostError, VerifyError
from runner.sandboxes.desk import Desk
from tests.unit.parts_desk import Engine, Gallery, made, reached, until, wish
from tests.unit.parts_desk_begun import desk, engine, gallery

__all__ = ["desk", "engine", "gallery"]


def test_an_image_that_is_not_there_fails_at_once(desk: Desk, engine: Engine) -> None:
    desk.start(wish(image="nothing"))
    failed = reached(desk, "one", "failed")
    assert failed.why == "there is no image nothing"
    until(lambda: desk.counts().free == 6)
    assert not engine.stopped, "no engine is asked to end what never was"
    assert "there is no image nothing" in desk.logs(failed.id)


def test_an_engine_that_cannot_start_it(desk: Desk, engine: Engine) -> None:
    engine.refuse = [HostError("podman could not\n  early\n  the last line", "type this")]
    desk.start(wish())
    failed = reached(desk, "one", "failed")
    assert failed.why == "podman could not; its last line: the last line"
    until(lambda: desk.counts().free == 6)
    assert "  early\n" in desk.logs(failed.id)
    assert desk.start(wish()).phase == "starting", "and the next one goes on"


def test_what_nobody_foresaw_ends_one_sandbox(desk: Desk, engine: Engine, capsys: object) -> None:
    engine.refuse = [ZeroDivisionError("oh")]
    desk.start(wish())
    assert reached(desk, "one", "failed").why == "ZeroDivisionError: oh"
    until(lambda: desk.counts().free == 6)


def test_where_no_thread_can_be_had_it_fails(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> threading.Thread:
        raise RuntimeError("can't start new thread")

    desk = made(tmp_path, engine)
    desk.start(wish("fine"))
    desk.watch.look()
    with monkeypatch.context() as full:
        full.setattr("runner.sandboxes.desk.threading.Thread", refuse)
        desk.start(wish())
    desk.watch.look()
    assert "can't start new thread" in reached(desk, "one", "failed").why
    until(lambda: desk.counts().free == 5)
    assert reached(desk, "fine", "ready")
    desk.close()


def test_a_server_that_does_not_come_up(tmp_path: Path, engine: Engine) -> None:
    desk = made(tmp_path, engine, start_within=0.2)
    engine.hold.clear()
    id = desk.start(wish()).id
    engine.alive[id], engine.log[id] = False, "a word\n"
    engine.hold.set()
    failed = reached(desk, "one", "failed")
    assert failed.why == "its server was not alive after 0.2 s; its last line: a word"
    until(lambda: id in engine.stopped)
    assert desk.logs(id) == "a word\n"
    desk.close()


def test_one_that_ends_by_itself_fails_with_its_log(desk: Desk, engine: Engine) -> None:
    id = desk.start(wish()).id
    reached(desk, "one", "ready")
    engine.log[id], engine.containers[id] = "killed by\nitself\n", "ended"
    desk.watch.look()
    failed = reached(desk, "one", "failed")
    assert failed.why == "its container ended: exit code 7; its last line: itself"
    until(lambda: desk.counts().free == 6)
    assert engine.stopped == [id] and desk.logs(id) == "killed by\nitself\n"


def test_a_log_is_told_although_its_container_goes_meanwhile(
    desk: Desk, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = desk.start(wish()).id
    reached(desk, "one", "ready")
    engine.log[id] = "its last words\n"

    def gone(id: str, lines: int = 100) -> str:
        monkeypatch.undo()
        desk.stop(id)
        raise HostError("no such container")

    monkeypatch.setattr(engine, "logs", gone)
    assert desk.logs(id) == "its last words\n"


def test_one_that_died_was_not_idle(tmp_path: Path, engine: Engine) -> None:
    now = [1000.0]
    desk = made(tmp_path, engine, idle=10.0, clock=lambda: now[0])
    id = desk.start(wish()).id
    reached(desk, "one", "ready")
    engine.containers[id], now[0] = "ended", 1010.0
    desk.watch.look()
    assert "exit code 7" in reached(desk, "one", "failed").why
    until(lambda: desk.node.table.one(id).gone.is_set())  # what is known of it is written then
    desk.close()


def test_one_that_ends_while_it_comes_up_is_not_awaited(desk: Desk, engine: Engine) -> None:
    engine.hold.clear()
    id = desk.start(wish()).id
    engine.alive[id] = False
    until(lambda: desk.known(id).engine)  # type: ignore[union-attr]
    engine.containers[id] = "ended"  # as podman lists one that it is creating
    desk.watch.look()
    engine.hold.set()
    until(lambda: desk.node.table.one(id).entered)
    desk.watch.look()
    assert desk.known(id).phase == "starting"  # type: ignore[union-attr]
    engine.containers[id] = "ended"
    desk.watch.look()
    assert "exit code 7" in reached(desk, "one", "failed").why
    until(lambda: desk.counts().free == 6)


def test_an_engine_that_fails_to_end_one_is_asked_again(desk: Desk, engine: Engine) -> None:
    id = desk.start(wish()).id
    reached(desk, "one", "ready")
    engine.stuck.set()
    began = time.monotonic()
    assert desk.stop(id).phase == "stopped" and time.monotonic() - began < 10
    assert desk.counts().free == 5, "its processors are still used"
    engine.stuck.clear()
    desk.watch.look()
    until(lambda: desk.counts().free == 6)
    assert engine.stopped == [id]


def test_stopped_while_its_image_is_brought(desk: Desk, engine: Engine, gallery: Gallery) -> None:
    gallery.hold.clear()
    id = desk.start(wish()).id
    assert desk.stop(id).phase == "stopped" and desk.counts().free == 6
    gallery.hold.set()
    desk.close()
    assert not engine.started, "nothing is started for one that nobody wants"


def test_stopped_while_its_container_starts(desk: Desk, engine: Engine) -> None:
    engine.hold.clear()
    id = desk.start(wish()).id
    until(lambda: desk.known(id).engine)  # type: ignore[union-attr]
    stopping = threading.Thread(target=desk.stop, args=(id,))
    stopping.start()
    until(lambda: desk.known(id).phase == "stopped")  # type: ignore[union-attr]
    assert desk.counts().free == 5
    engine.hold.set()
    stopping.join()
    assert not engine.containers and engine.stopped == [id] and desk.counts().free == 6


def test_one_that_holds_who_asks_it_is_stopped_while_it_comes_up(
    desk: Desk, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, answered = threading.Event(), threading.Event()

    def alive(self: object) -> bool:
        asked.set()
        return answered.wait(30)

    monkeypatch.setattr("tests.unit.parts_desk.Agent.alive", alive)
    id = desk.start(wish()).id
    assert asked.wait(10)
    began = time.monotonic()
    assert desk.stop(id).phase == "stopped" and time.monotonic() - began < 10
    assert engine.stopped == [id] and desk.counts().free == 6
    answered.set()
    until(lambda: not desk.node.table.one(id).bringing)
    assert desk.known(id).phase == "stopped" and desk.counts().free == 6  # type: ignore[union-attr]
    assert engine.stopped == [id]


def test_errors_of_an_engine_are_the_caller_s_to_know(
    desk: Desk, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(id: str) -> None:
        raise VerifyError("no freezer after all")

    id = desk.start(wish()).id
    reached(desk, "one", "ready")
    monkeypatch.setattr(engine, "pause", refuse)
    with pytest.raises(VerifyError, match="after all"):
        desk.pause(id)
    assert desk.known(id).phase == "ready"  # type: ignore[union-attr]
