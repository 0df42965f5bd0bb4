"""Several nodes behind one address: placing, what is found again, what becomes of a silent node."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from kit.errors import BusyError, LaunchError, NetworkError, NotFoundError, UnsupportedError, UsageError
from runner.sandboxes.client import Client
from runner.sandboxes.front import Front
from runner.sandboxes.front_names import Names, Turns
from runner.sandboxes.nouns import Session
from tests.unit.parts_desk import until, wish
from tests.unit.parts_served import KEY, Place, served

Began = Callable[..., Front]


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[list[Place]]:
    found = [Place(tmp_path / name, slots) for name, slots in (("a", 2), ("b", 4))]
    yield found
    for each in found:
        each.end()


@pytest.fixture
def began(nodes: list[Place]) -> Iterator[Began]:
    """Begins a front of both."""
    made: list[Front] = []

    def front(silence: float = 60.0, client: type[Client] = Client) -> Front:
        """silence: where it is the subject, much less."""
        made.append(Front([each.url for each in nodes], KEY, silence=silence, client=client))
        made[-1].begin()
        return made[-1]

    yield front
    for each in made:
        each.close()


def becomes(front: Front, session: str, phase: str) -> Session:
    until(lambda: (found := front.find(session)) and found.phase == phase, f"{session} {phase}")
    found = front.find(session)
    assert found
    return found


def of(node: Place) -> list[str]:
    return [each.wish.session for each in node.desk.sessions()]


def test_they_are_placed_where_there_is_room(began: Began, nodes: list[Place]) -> None:
    front = began()
    assert front.counts().slots == 6
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda n: front.start(wish(f"s{n}")), range(6)))
    assert sorted(of(nodes[0]) + of(nodes[1])) == [f"s{n}" for n in range(6)]
    assert (len(of(nodes[0])), len(of(nodes[1]))) == (2, 4)
    assert len({each.url for each in found}) == 6 and all(each.key for each in found)
    with pytest.raises(BusyError) as full:
        front.start(wish("s6"))
    assert full.value.seconds >= 1
    front.stop(found[3].id)
    assert becomes(front, "s3", "stopped").id == found[3].id
    assert front.start(wish("s6")).live
    with pytest.raises(UnsupportedError):
        front.start(wish("large", factor=8))


def test_a_session_is_begun_once_however_often_it_is_asked_for(began: Began, nodes: list[Place]) -> None:
    front = began()
    with ThreadPoolExecutor(8) as pool:
        ids = {each.id for each in pool.map(lambda _: front.start(wish()), range(8))}
    assert len(ids) == 1 and len(of(nodes[0]) + of(nodes[1])) == 1
    with pytest.raises(UsageError):
        front.start(wish(image="other"))


def test_all_of_a_wish_reaches_the_node(began: Began, nodes: list[Place]) -> None:
    asked = wish(command=("a", "b c"), env={"A": "1"}, workdir="/w", user=10001, pull="Never", factor=2)
    began().start(asked)
    assert [each.wish for node in nodes for each in node.desk.sessions()] == [asked]


def test_pause_resume_stop_and_an_unknown_one(began: Began) -> None:
    front = began()
    id = front.start(wish()).id
    becomes(front, "one", "ready")
    assert front.pause(id).phase == "paused"
    assert {each.phase for each in (front.known(id), front.find("one")) if each} == {"paused"}
    assert front.resume(id).phase == "ready"
    assert front.stop(id).phase == front.stop(id).phase == "stopped"
    until(lambda: front.sessions() == [], "the list without it")
    assert front.find("two") is None
    for call in (front.pause, front.resume, front.stop, front.logs):
        with pytest.raises(NotFoundError):
            call("0" * 16)
    found = front.exists("image")
    assert found and found.size == 5 and front.exists("no") is None


def test_a_failed_one_tells_why(began: Began) -> None:
    front = began()
    id = front.start(wish(image="no")).id
    assert "there is no image no" in becomes(front, "one", "failed").why
    assert front.logs(id) == "there is no image no"


def test_one_that_ended_by_itself_is_seen_by_the_list_too(began: Began, nodes: list[Place]) -> None:
    front = began()
    session = front.start(wish())
    (node,) = (each for each in nodes if of(each))
    node.desk.stop(session.id)
    until(lambda: front.sessions() == [], "the list without it")
    assert becomes(front, "one", "stopped").id == session.id


def test_a_front_that_begins_again_finds_all(began: Began, nodes: list[Place]) -> None:
    first = began()
    ids = {first.start(wish(f"s{n}")).id for n in range(5)}
    first.close()
    again = began()
    assert {each.id for each in again.sessions()} == ids
    assert again.start(wish("s2")).id in ids
    assert again.counts().free == 1


def test_a_silent_node_loses_its_own_alone(began: Began, nodes: list[Place]) -> None:
    front = began(silence=3.0)
    held = [front.start(wish(f"s{n}")) for n in range(6)]
    gone = of(nodes[1])
    nodes[1].down()
    for name in gone:
        assert "silent" in becomes(front, name, "failed").why
    assert {each.wish.session for each in front.sessions()} == set(of(nodes[0]))
    assert front.counts().slots == 2
    # A session that was lost is begun again where there is room; one that is stopped stays so.
    stopped = next(each for each in held if each.wish.session == gone[0])
    assert front.stop(stopped.id).phase == "failed"
    front.stop(next(each.id for each in front.sessions()))
    until(lambda: front.counts().free == 1, "a free slot")
    moved = front.start(wish(gone[1]))
    assert moved.wish.session in of(nodes[0])
    nodes[1].up()
    until(lambda: front.counts().slots == 6, "the node again")
    until(lambda: gone[1] not in of(nodes[1]), "the older of two to be ended")
    assert front.find(gone[1]).id == moved.id  # type: ignore[union-attr]
    assert becomes(front, gone[2], "ready").live


def test_what_was_stopped_while_its_node_was_silent_is_ended_when_it_is_back(
    began: Began, nodes: list[Place]
) -> None:
    front = began(silence=1.0)
    session = front.start(wish())
    (node,) = (each for each in nodes if of(each))
    node.down()
    until(lambda: front.counts().slots < 6, "silence")
    front.stop(session.id)
    node.up()
    until(lambda: of(node) == [], "its end")


class Unheard(Client):
    """To which the answers of the larger node's starts do not come in time."""

    late = ""  # its URL

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None, **query: str) -> dict[str, Any]:
        if path == "/start" and self.url == Unheard.late:
            raise NetworkError("timed out")
        return super().ask(method, path, body, **query)


def test_what_a_client_was_given_is_ended_for_no_other_of_its_name(
    began: Began, nodes: list[Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a node begins one after all, which the front began elsewhere meanwhile."""
    monkeypatch.setattr(Unheard, "late", nodes[1].url)
    front = began(client=Unheard)
    given = front.start(wish())
    assert of(nodes[0]) == ["one"] and of(nodes[1]) == []
    late = nodes[1].desk.start(wish())
    assert late.began > given.began
    until(lambda: of(nodes[1]) == [], "the end of the late one")
    assert [each.id for each in nodes[0].desk.sessions()] == [given.id] == [front.start(wish()).id]
    until(lambda: [each.id for each in front.sessions()] == [given.id], "the list without the late one")
    # Also where the given one is over: nobody knows of the other.
    front.stop(given.id)
    nodes[1].desk.start(wish())
    until(lambda: of(nodes[1]) == [], "the end of another late one")
    assert front.find("one").id == given.id  # type: ignore[union-attr]


@pytest.mark.parametrize("first", [0, 1])
def test_of_two_that_nobody_was_given_the_older_one_goes_on(
    began: Began, nodes: list[Place], first: int
) -> None:
    older = nodes[first].desk.start(wish())
    time.sleep(0.01)
    nodes[1 - first].desk.start(wish())
    front = began()
    until(lambda: of(nodes[1 - first]) == [], "the end of the younger")
    assert front.start(wish()).id == older.id


def test_one_that_is_still_to_be_ended_is_given_to_nobody(
    began: Began, nodes: list[Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped while its node was silent, and asked for again before a look found it there."""
    monkeypatch.setattr("runner.sandboxes.front.PACE", 600.0)
    front = began()
    old = front.start(wish())
    nodes[1].down()
    front._nodes[1].answers = False
    assert front.stop(old.id).phase == "stopped"
    nodes[1].up()
    front._nodes[1].answers = True
    new = front.start(wish(image="other"))
    assert new.id != old.id and new.live
    front._look(front._nodes[1])
    assert [each.id for each in nodes[1].desk.sessions()] == [new.id]


def test_while_one_is_begun_nobody_says_which_of_its_name_is_wanted() -> None:
    names = Names()
    a, b = (Session(id=id, wish=wish(), phase="ready", began=began) for id, began in (("a", 2.0), ("b", 1.0)))
    assert names.unwanted(a, None, under_way=True) is None
    assert names.unwanted(b, a, under_way=True) is None and names.get("one") == "a"
    names.give(a)
    assert names.unwanted(b, a, under_way=True) is b
    names.anew("one")
    assert names.unwanted(b, a, under_way=False) is a and names.get("one") == "b"


def test_a_turn_is_kept_as_long_as_somebody_wants_it() -> None:
    turns, inside, most = Turns(), list[int](), list[int]()
    go = threading.Event()

    def one(_: int) -> None:
        with turns.of("a"):
            inside.append(1)
            go.wait(20)
            most.append(len(inside))
            inside.pop()

    with ThreadPoolExecutor(8) as pool:
        asked = pool.map(one, range(8))
        until(lambda: inside, "the first")
        assert "a" in turns and len(turns) == 1
        go.set()
        list(asked)
    assert most == [1] * 8 and len(turns) == 0


class Stuck:
    """The client of a node that answers once, and then keeps who asks waiting."""

    def __init__(self, url: str, key: str, timeout: float = 60.0) -> None:
        self.asked, self.go, self.closed = 0, threading.Event(), False

    def ask(self, *_: object) -> dict[str, Any]:
        self.asked += 1
        if self.asked > 1:
            self.go.wait(60)
        return {"slots": 1, "free": 1, "waiting": 0, "runtimes": []}

    def close(self) -> None:
        self.closed = True


def test_its_end_waits_for_no_silent_node() -> None:
    made: list[Stuck] = []

    def client(url: str, key: str, timeout: float = 60.0) -> Any:
        made.append(Stuck(url, key, timeout))
        return made[-1]

    front = Front(["http://node"], KEY, client=client)
    front.begin()
    until(lambda: any(each.asked > 1 for each in made), "a second look")
    began = time.monotonic()
    front.close()
    assert time.monotonic() - began < 30 and not any(each.closed for each in made)
    for each in made:
        each.go.set()


def test_without_any_node_it_does_not_begin(tmp_path: Path) -> None:
    place = Place(tmp_path, 1)
    place.end()
    front = Front([place.url], KEY)
    with pytest.raises(LaunchError, match="does not answer"):
        front.begin()
    front.close()


def test_a_wrong_key_is_told(nodes: list[Place]) -> None:
    front = Front([nodes[0].url], "other")
    with pytest.raises(LaunchError, match="X-API-Key"):
        front.begin()
    front.close()


def test_a_front_is_served_as_a_desk_is(began: Began) -> None:
    with served(began()) as url:
        place = Place.__new__(Place)
        place.url = url
        begun = place.ask("POST", "/start", image="image", session_id="one")
        assert place.ask("GET", "/sessions/one")["runtime_id"] == begun["runtime_id"]
        assert place.ask("GET", "/list")["slots"] == 6
        assert place.ask("POST", "/stop", runtime_id=begun["runtime_id"])["status"] == "stopped"
