"""Sessions on disk: what is read back, and what a new server makes of one that was killed."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from msgspec import json, structs

from kit.errors import HeldError, HostError, UsageError, VerifyError
from runner.sandboxes import records
from runner.sandboxes.backend import State
from runner.sandboxes.desk import Desk
from runner.sandboxes.nouns import Phase, Session
from tests.unit.parts_desk import Engine, Gallery, made, reached, until, wish


def session(id: str = "a" * 16, phase: Phase = "ready", **more: object) -> Session:
    return Session(id=id, wish=wish(f"s{id[0]}"), phase=phase, key="secret", **more)  # type: ignore[arg-type]


def test_what_is_written_is_read_and_nobody_else_s(tmp_path: Path) -> None:
    folder = tmp_path / "a folder\nof 'mine'"
    older, newer = session("b" * 16, began=1.0), session(began=2.0, cpus=(1, 2))
    for each in (newer, older):
        records.write(folder, each)
    assert records.read(folder) == [older, newer]
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*")}
    assert set(modes.values()) == {0o700, 0o600} and stat.S_IMODE(folder.stat().st_mode) == 0o700
    records.keep_log(folder, older.id, "a word\udcff")
    records.own_folder(folder, older.id)
    assert records.log(folder, older.id) == "a word?"
    records.keep_log(folder, older.id, "x" * 100_000 + "the end")
    assert len(records.log(folder, older.id)) == 65536 and records.log(folder, older.id).endswith("xthe end")
    records.drop(folder, older.id)
    records.drop(folder, older.id)
    assert records.read(folder) == [newer] and records.log(folder, older.id) == ""
    assert records.read(tmp_path / "none") == [] and not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"[]", b'{"id": "cccccccccccccccc"}', b"\xff\xfe", b'{"id": "c", "wish": {}}'],
)
def test_what_is_no_record_is_passed_over_with_a_word(
    tmp_path: Path, raw: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    good = session()
    records.write(tmp_path, good)
    (tmp_path / "sessions" / f"{'c' * 16}.json").write_bytes(raw)
    (tmp_path / "sessions/.cccccccccccccccc.json.1-ab.tmp").write_text("{")
    (tmp_path / "sessions/readme.json").write_text("{}")
    assert records.read(tmp_path) == [good]
    assert f"{'c' * 16}.json is no record of a sandbox" in capsys.readouterr().err


def test_a_record_under_another_s_name_is_none(tmp_path: Path) -> None:
    records.write(tmp_path, session())
    raw = (tmp_path / "sessions" / f"{'a' * 16}.json").read_bytes()
    (tmp_path / "sessions" / f"{'b' * 16}.json").write_bytes(raw)
    assert [each.id for each in records.read(tmp_path)] == ["a" * 16]


def test_a_field_of_a_newer_version_harms_nothing(tmp_path: Path) -> None:
    records.write(tmp_path, session())
    path = tmp_path / "sessions" / f"{'a' * 16}.json"
    path.write_bytes(json.encode(json.decode(path.read_bytes()) | {"newer": 1}))
    assert records.read(tmp_path) == [session()]


def test_a_folder_has_one_label(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as many:
        found = set(many.map(lambda _: records.label(tmp_path / "state"), range(32)))
    assert len(found) == 1 and records.LABEL.fullmatch(found.pop())
    assert records.label(tmp_path / "other") != records.label(tmp_path / "state")
    assert sorted(path.name for path in (tmp_path / "state").iterdir()) == ["id"]
    (tmp_path / "state/id").write_text("what")
    with pytest.raises(HostError, match="holds 'what', expected 12 hexadecimal digits"):
        records.label(tmp_path / "state")


def test_one_server_has_a_folder(tmp_path: Path) -> None:
    taken = pytest.raises(HeldError, match=f"{tmp_path} is written to by process {os.getpid()}")
    with records.held(tmp_path), taken, records.held(tmp_path):
        pass
    with records.held(tmp_path):
        pass


def test_what_cannot_be_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HostError, match="file cannot be made this user's own: File exists"):
        records.private(tmp_path / "file")


# A server before this one


@pytest.fixture
def engine() -> Engine:
    return Engine()


def killed(desk: Desk, *more: str) -> None:
    """What kill -9 does: its threads end, and nothing else happens."""
    desk.watch.close()


def test_running_sandboxes_go_on_as_their_clients_know_them(tmp_path: Path, engine: Engine) -> None:
    first = made(tmp_path, engine)
    first.recover()
    ids = [first.start(wish(name, factor=2)).id for name in "ab"]
    before = [reached(first, name, "ready") for name in "ab"]
    first.pause(ids[1])
    killed(first)
    second = made(tmp_path, engine)
    second.recover()
    assert second.known(ids[1]).phase == "paused"  # type: ignore[union-attr]
    after = [reached(second, "a", "ready"), second.known(ids[1])]
    for old, new in zip(before, after, strict=True):
        assert new and (new.id, new.url, new.key, new.cpus) == (old.id, old.url, old.key, old.cpus)
    assert set(engine.adopted) == set(ids) and engine.adopted[ids[0]].cpus == before[0].cpus
    assert second.counts().free == 2 and second.start(wish("a", factor=2)).id == ids[0]
    assert second.resume(ids[1]).phase == "ready"
    assert not engine.stopped
    second.close()
    assert not engine.containers


def test_a_container_without_a_session_is_ended(tmp_path: Path, engine: Engine) -> None:
    stopped = session("c" * 16, "stopped")
    records.write(tmp_path, stopped)
    records.own_folder(tmp_path, stopped.id)
    engine.containers = {"d" * 16: "running", "c" * 16: "paused"}
    desk = made(tmp_path, engine)
    desk.recover()
    assert sorted(engine.stopped) == ["c" * 16, "d" * 16] and not engine.containers
    assert desk.known("c" * 16) == stopped and desk.sessions() == [], "what ended is still known"
    assert not (tmp_path / "sandboxes" / stopped.id).exists()
    desk.close()


def test_a_container_that_appears_later_than_its_heir_looked_is_ended(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a command that outlived the server which began it: it has no session, or one that was lost."""
    lost = session("c" * 16, engine="podman")
    records.write(tmp_path, lost)
    desk = made(tmp_path, engine)
    monkeypatch.setattr(desk.watch, "begin", lambda: None)
    desk.recover()
    until(lambda: desk.node.table.one(lost.id).gone.is_set())
    mine = [desk.start(wish(name)).id for name in ("mine", "clearing")]
    for name in ("mine", "clearing"):
        reached(desk, name, "ready")
    engine.stopped.clear()
    engine.stuck.set()
    desk.stop(mine[1])  # its engine does not end it now: that is known, and tried again
    engine.containers |= {"d" * 16: "running", lost.id: "running"}
    desk.watch.look()
    engine.stuck.clear()

    def looked() -> bool:  # while an attempt that failed goes on, another look begins none
        desk.watch.look()
        return set(engine.containers) == {mine[0]}

    until(looked, f"the end of {engine.containers}")
    until(lambda: desk.counts().free == 5)
    desk.watch.look()
    assert sorted(engine.stopped) == sorted(["d" * 16, lost.id, mine[1]])
    assert desk.known(mine[0]).phase == "ready"  # type: ignore[union-attr]
    desk.close()


def test_what_is_seen_once_without_a_session_may_be_on_its_way(tmp_path: Path, engine: Engine) -> None:
    desk = made(tmp_path, engine)
    engine.containers["d" * 16] = "running"
    desk.watch.look()
    del engine.containers["d" * 16]
    desk.watch.look()
    engine.containers["d" * 16] = "running"
    desk.watch.look()
    assert not engine.stopped
    desk.close()
    assert engine.stopped == ["d" * 16]


@pytest.mark.parametrize(
    "state, why",
    [
        (None, "it was lost: no server looked after it, and its container is gone"),
        ("ended", "its container ended: exit code 7; its last line: the end"),
    ],
)
def test_a_session_whose_container_ended_has_failed(
    tmp_path: Path, engine: Engine, state: State | None, why: str
) -> None:
    lost = session(engine="podman", url="http://127.0.0.1:20001", cpus=(0,))
    records.write(tmp_path, lost)
    if state:
        engine.containers[lost.id], engine.log[lost.id] = state, "first\nthe end\n"
    desk = made(tmp_path, engine)
    desk.recover()
    found = desk.known(lost.id)
    assert found and (found.phase, found.why) == ("failed", why)
    assert desk.counts().free == 6 and not engine.containers
    assert records.read(tmp_path)[0].phase == "failed"
    desk.close()


def test_one_that_waited_is_begun_again_at_the_address_that_its_client_knows(
    tmp_path: Path, engine: Engine
) -> None:
    gallery = Gallery()
    gallery.hold.clear()
    first = made(tmp_path, engine, gallery, slots=1, queue=60.0)
    ids = [first.start(wish(name)).id for name in "ab"]
    before = [first.known(id) for id in ids]
    until(lambda: len(records.read(tmp_path)) == 2)
    for id in ids:  # its process dies
        port = first.node.table.one(id).port
        assert port
        port.release()
    killed(first)
    second = made(tmp_path, engine, slots=1, queue=60.0)
    second.recover()
    ready = reached(second, "a", "ready")
    assert before[0] and (ready.id, ready.url, ready.key) == (ids[0], before[0].url, before[0].key)
    assert second.known(ids[1]).phase == "queued"  # type: ignore[union-attr]
    second.stop(ids[0])
    assert reached(second, "b", "ready").url == before[1].url  # type: ignore[union-attr]
    second.close()
    gallery.hold.set()


def test_one_whose_port_is_another_s_now_has_failed(tmp_path: Path, engine: Engine) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        records.write(tmp_path, session(phase="queued", url=f"http://127.0.0.1:{taken.getsockname()[1]}"))
        desk = made(tmp_path, engine)
        desk.recover()
        found = desk.known("a" * 16)
        assert found and found.phase == "failed" and "its port is another's now" in found.why
    desk.close()


def test_one_that_cannot_be_watched_is_not_left_running(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise VerifyError("no such process")

    records.write(tmp_path, session(engine="podman", url="http://127.0.0.1:20001"))
    engine.containers["a" * 16] = "running"
    monkeypatch.setattr(engine, "adopt", refuse)
    desk = made(tmp_path, engine)
    desk.recover()
    assert "cannot be watched: no such process" in reached(desk, "sa", "failed").why
    until(lambda: not engine.containers)
    desk.close()


def test_what_another_engine_started_is_not_forgotten(tmp_path: Path, engine: Engine) -> None:
    records.write(tmp_path, session(engine="apptainer"))
    desk = made(tmp_path, engine)
    with pytest.raises(UsageError, match=r"has sandboxes by apptainer, and this server .* by podman"):
        desk.recover()
    assert records.read(tmp_path) == [session(engine="apptainer")]


def test_where_the_engine_does_not_answer_nothing_is_ended(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(state: str) -> dict[str, State]:
        raise VerifyError("no answer")

    records.write(tmp_path, session(engine="podman"))
    engine.containers["a" * 16] = "running"
    desk = made(tmp_path, engine)
    with monkeypatch.context() as broken, pytest.raises(VerifyError, match="no answer"):
        broken.setattr(engine, "states", refuse)
        desk.recover()
    desk.close()
    assert engine.containers and not engine.stopped and records.read(tmp_path)[0].live


def test_when_it_was_used_is_on_disk_a_while_later(tmp_path: Path, engine: Engine) -> None:
    now = [1000.0]
    desk = made(tmp_path, engine, clock=lambda: now[0])
    desk.start(wish())
    reached(desk, "one", "ready")
    until(lambda: records.read(tmp_path)[0].phase == "ready")
    now[0] = 1100.0
    desk.find("one")
    desk.watch.look()
    assert records.read(tmp_path)[0].used == 1100.0
    desk.close()


def test_a_full_disk_begins_nothing_and_ends_nothing(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    desk = made(tmp_path, engine)
    desk.start(wish())
    ready = reached(desk, "one", "ready")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    until(lambda: records.read(tmp_path)[0].phase == "ready")
    monkeypatch.setattr(records, "write", full)
    desk.node.table.change(desk.node.table.one(ready.id), used=structs.asdict(ready)["used"] + 1e6)
    desk.watch.look()
    assert desk.known(ready.id).phase == "ready"  # type: ignore[union-attr]
    assert "could not be saved" in capsys.readouterr().err
    desk.start(wish("two"))
    assert "No space left" in reached(desk, "two", "failed").why
    until(lambda: desk.counts().free == 5)
    assert len(engine.started) == 1
    desk.close()
