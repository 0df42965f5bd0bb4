"""The desk of a node, with an engine that is a table: what becomes of requests, also when things fail."""

from __future__ import annotations

import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.errors import (
    BusyError,
    HostError,
    NotFoundError,
    UnsupportedError,
    UsageError,
    VerifyError,
)
from runner.sandboxes import held_port, records
from runner.sandboxes.desk import Desk
from runner.sandboxes.nouns import KEY
from tests.unit.parts_desk import Engine, Gallery, made, reached, until, wish


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def gallery() -> Gallery:
    return Gallery()


@pytest.fixture
def desk(tmp_path: Path, engine: Engine, gallery: Gallery) -> Iterator[Desk]:
    """Six slots, and nobody may wait."""
    one = made(tmp_path / "state", engine, gallery)
    one.recover()
    yield one
    engine.hold.set()
    engine.stuck.clear()
    one.close()


@pytest.fixture
def patient(tmp_path: Path, engine: Engine, gallery: Gallery) -> Iterator[Desk]:
    """Two slots, and all may wait."""
    one = made(tmp_path / "patient", engine, gallery, slots=2, queue=600.0)
    one.recover()
    yield one
    engine.hold.set()
    one.close()


def test_a_session_is_told_at_once_where_it_will_be_and_becomes_ready(
    desk: Desk, engine: Engine, gallery: Gallery, tmp_path: Path
) -> None:
    gallery.hold.clear()
    begun = desk.start(wish(env={"A": "a\nb"}, workdir="/w", factor=2))
    assert begun.phase == "starting" and begun.url.startswith("http://127.0.0.1:") and len(begun.key) == 64
    gallery.hold.set()
    ready = reached(desk, "one", "ready")
    assert (ready.id, ready.url, ready.key, ready.engine) == (begun.id, begun.url, begun.key, "podman")
    start = engine.started[ready.id]
    assert (start.url, start.name, start.workdir) == (ready.url, f"slipworks-{ready.id}", "/w")
    assert start.secret == {"A": "a\nb", KEY: ready.key}, "what a client sends is in no argv"
    assert start.limits.cpus == (0, 1, 2, 3) and start.limits.memory == 2 * 8192 << 20
    assert stat.S_IMODE(Path(start.folder).stat().st_mode) == 0o700
    assert [each.id for each in desk.sessions()] == [ready.id] and desk.counts().free == 4
    assert records.read(tmp_path / "state")[0].key == ready.key
    record = tmp_path / "state/sessions" / f"{ready.id}.json"
    assert stat.S_IMODE(record.stat().st_mode) == 0o600


def test_the_clients_own_session_key_is_not_the_sandbox_s(desk: Desk, engine: Engine) -> None:
    begun = desk.start(wish(env={KEY: "chosen"}))
    reached(desk, "one", "ready")
    assert engine.started[begun.id].secret[KEY] == begun.key != "chosen"


def test_a_name_is_one_session_however_often_it_is_begun(desk: Desk, gallery: Gallery) -> None:
    found = [desk.start(wish()).id for _ in range(5)]
    assert len(set(found)) == 1 and desk.counts().free == 5
    with pytest.raises(UsageError, match="was begun with the image image, and is asked for with other"):
        desk.start(wish(image="other"))
    desk.stop(found[0])
    again = desk.start(wish(image="other"))
    assert again.id != found[0], "of an ended one there is another"
    assert desk.find("one") is not None and desk.known(found[0]) is not None


def test_of_many_at_once_with_one_name_all_get_the_same(desk: Desk, gallery: Gallery) -> None:
    gallery.hold.clear()
    found: set[str] = set()
    many = [threading.Thread(target=lambda: found.add(desk.start(wish()).id)) for _ in range(32)]
    for each in many:
        each.start()
    for each in many:
        each.join()
    assert len(found) == 1
    gallery.hold.set()
    reached(desk, "one", "ready")
    assert len(gallery.asked) == 1


def test_stop_leaves_nothing_but_the_log(desk: Desk, engine: Engine, tmp_path: Path) -> None:
    id = desk.start(wish(env={"A_KEY": "value"})).id
    reached(desk, "one", "ready")
    engine.log[id] = "one\ntwo\nthree\n"
    assert desk.logs(id, 1) == "three\n"
    (records.own_folder(tmp_path / "state", id) / "secret.env").write_text("x")
    assert desk.stop(id).phase == "stopped" and desk.stop(id).phase == "stopped"
    assert engine.stopped == [id] and desk.counts().free == 6 and desk.sessions() == []
    assert "value" not in (tmp_path / "state/sessions" / f"{id}.json").read_text()
    assert not (tmp_path / "state/sandboxes" / id).exists()
    assert desk.logs(id) == "one\ntwo\nthree\n" and desk.logs(id, 2) == "two\nthree\n"
    with pytest.raises(NotFoundError, match="there is no sandbox 0123"):
        desk.stop("0123")


def test_a_port_is_held_until_its_container_takes_it(desk: Desk, engine: Engine, gallery: Gallery) -> None:
    import socket

    gallery.hold.clear()
    port = int(desk.start(wish()).url.rpartition(":")[2])
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", port))
    gallery.hold.set()
    reached(desk, "one", "ready")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))


def test_no_port_is_promised_twice(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while its container, which has it by now, does not listen."""
    free = [held_port.hold() for _ in range(2)]
    for each in free:
        each.release()
    monkeypatch.setattr(held_port, "numbers", lambda: iter([each.number for each in free]))
    desk.start(wish("one"))
    first = reached(desk, "one", "ready")
    desk.start(wish("two"))
    second = reached(desk, "two", "ready")
    assert [first.port, second.port] == [each.number for each in free]
    desk.stop(first.id)
    desk.start(wish("three"))
    assert reached(desk, "three", "ready").port == first.port


# Too many


def test_a_full_desk_says_when_to_come_again(desk: Desk) -> None:
    for number in range(6):
        desk.start(wish(f"s{number}"))
    with pytest.raises(BusyError, match="1 of 6 slots wanted, 0 free") as told:
        desk.start(wish("more"))
    assert told.value.seconds >= 1 and desk.find("more") is None
    desk.stop(desk.start(wish("s3")).id)
    assert desk.start(wish("more")).phase == "starting"


@pytest.mark.parametrize("factor", [3, 8, 0, -1])
def test_a_factor_that_can_never_be_had(desk: Desk, factor: int) -> None:
    with pytest.raises(UnsupportedError, match=r"this server has 6 slots, expected 1, 2, 4$"):
        desk.start(wish(factor=factor))


def test_those_who_wait_come_in_their_order_and_nobody_is_passed(patient: Desk, engine: Engine) -> None:
    first = [patient.start(wish(name)).id for name in "ab"]
    for name in "ab":
        reached(patient, name, "ready")
    big = patient.start(wish("big", factor=2))
    small = [patient.start(wish(f"small{number}")) for number in range(3)]
    assert {each.phase for each in (big, *small)} == {"queued"} and big.url and big.key
    assert patient.counts().waiting == 4
    patient.stop(first[0])
    assert patient.counts().free == 1 and patient.known(big.id).phase == "queued"  # type: ignore[union-attr]
    patient.stop(first[1])
    reached(patient, "big", "ready")
    assert patient.counts().waiting == 3
    assert patient.start(wish("small1")).id == small[1].id, "one that waits is begun"
    patient.stop(small[0].id)
    patient.stop(big.id)
    for name in ("small1", "small2"):
        reached(patient, name, "ready")
    assert patient.counts().waiting == 0


def test_sixty_four_at_once_are_all_served_by_two_slots(patient: Desk, engine: Engine) -> None:
    names = {f"s{number}" for number in range(64)}
    begun = [patient.start(wish(name)) for name in sorted(names)]
    assert sum(each.phase == "queued" for each in begun) == 62
    served: set[str] = set()
    while served != names:
        found = [each for each in map(patient.known, [one.id for one in begun]) if each]
        assert not [each.why for each in found if each.phase == "failed"]
        running = [each for each in found if each.phase == "ready"]
        assert len(engine.containers) <= 2
        for each in running:
            served.add(each.wish.session)
            patient.stop(each.id)
    assert patient.counts().free == 2 and not engine.containers


def test_who_waits_too_long_fails(tmp_path: Path, engine: Engine) -> None:
    now = [1000.0]
    desk = made(tmp_path, engine, slots=1, queue=30.0, clock=lambda: now[0])
    desk.start(wish("a"))
    desk.start(wish("b"))
    now[0] = 1029.0
    desk.watch.look()
    assert desk.find("b").phase == "queued"  # type: ignore[union-attr]
    now[0] = 1030.0
    desk.watch.look()
    found = desk.find("b")
    assert found and (found.phase, found.why) == ("failed", "no slot was free in 30 s")
    assert desk.counts().waiting == 0
    desk.close()


# What fails


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


def test_one_that_died_was_not_idle(tmp_path: Path, engine: Engine) -> None:
    now = [1000.0]
    desk = made(tmp_path, engine, idle=10.0, clock=lambda: now[0])
    id = desk.start(wish()).id
    reached(desk, "one", "ready")
    engine.containers[id], now[0] = "ended", 1010.0
    desk.watch.look()
    assert "exit code 7" in reached(desk, "one", "failed").why
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


# Pause


def test_pause_and_resume(desk: Desk, engine: Engine) -> None:
    id = desk.start(wish()).id
    reached(desk, "one", "ready")
    assert desk.pause(id).phase == desk.pause(id).phase == "paused"
    assert engine.containers[id] == "paused" and desk.counts().free == 5
    assert desk.resume(id).phase == desk.resume(id).phase == "ready"
    assert engine.containers[id] == "running"
    desk.stop(id)
    with pytest.raises(NotFoundError, match=f"the sandbox {id} is stopped"):
        desk.pause(id)


def test_an_engine_that_cannot_pause_says_so(desk: Desk, engine: Engine) -> None:
    engine.pauses = "this podman has no freezer"
    id = desk.start(wish()).id
    reached(desk, "one", "ready")
    assert desk.pauses == engine.pauses
    with pytest.raises(UnsupportedError, match="no freezer"):
        desk.pause(id)


def test_one_that_comes_up_cannot_be_paused(desk: Desk, gallery: Gallery) -> None:
    gallery.hold.clear()
    id = desk.start(wish()).id
    with pytest.raises(UsageError, match="is starting"):
        desk.pause(id)


# Lifetimes


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
