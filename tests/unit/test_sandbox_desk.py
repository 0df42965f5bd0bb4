"""The desk of a node, with an engine that is a table: what becomes of requests."""

from __future__ import annotations

import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.errors import BusyError, NotFoundError, UnsupportedError, UsageError
from runner.sandboxes import held_port, records
from runner.sandboxes.desk import Desk
from runner.sandboxes.nouns import KEY
from tests.unit.parts_desk import Engine, Gallery, made, reached, wish
from tests.unit.parts_desk_begun import desk, engine, gallery

__all__ = ["desk", "engine", "gallery"]


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
