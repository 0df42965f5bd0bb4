"""Making images: nothing twice, nothing lost, whatever fails or stops it."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import threading
import time
from pathlib import Path

import pytest

from image_cache.prebuild import crew as crews
from image_cache.prebuild import exporting, planning, report
from image_cache.prebuild.crew import Crew
from image_cache.prebuild.journal import Journal
from image_cache.prebuild.report import Session
from image_cache.prebuild.running import Maker, mirror_tag
from image_cache.prebuild.schema import Row
from kit.errors import AuthError, NetworkError, NoSpaceError, QuotaError
from tests.unit.parts_prebuild import AMD64, TO, Hub, Shelf, added, by_base, journal
from tests.unit.test_prebuild_plan import bake, look


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "SOONEST", 0.001)
    monkeypatch.setattr(planning, "QUOTA_PAUSE", 0.01)
    monkeypatch.setattr(crews, "TICK", 0.05)


def planned(folder: Path, hub: Hub, shelf: Shelf, count: int) -> tuple[Journal, list[str]]:
    names = hub.has(count)
    made = journal(folder, *names)
    look(made, hub, shelf)
    return made, names


def test_a_run_makes_all_and_a_second_nothing(tmp_path: Path) -> None:
    hub, shelf = Hub(), Shelf()
    made, _ = planned(tmp_path, hub, shelf, 50)
    assert bake(made, hub, shelf).done == 50
    assert made.counts() == {"ready": 50} and len(shelf.puts) == 50 and set(shelf.puts.values()) == {1}
    assert all(row.attempts == 1 and row.begun and row.ended for row in made.rows())
    asked = shelf.asked, dict(hub.asked)
    assert bake(made, hub, shelf).done == 0
    assert (shelf.asked, dict(hub.asked)) == asked


def test_images_that_no_plan_could_look_at_are_looked_at_now(tmp_path: Path) -> None:
    hub, shelf = Hub(counted=True), Shelf()
    names = hub.has(3)
    made = journal(tmp_path, *names, "hub:1/a/gone:1")
    bake(made, hub, shelf)
    assert made.counts() == {"ready": 3, "missing": 1}
    assert all(hub.asked["image", name] == 1 for name in names)


def test_what_failed_for_what_passes_is_tried_again(tmp_path: Path) -> None:
    hub, shelf = Hub(counted=True), Shelf()
    made, names = planned(tmp_path, hub, shelf, 20)
    hub.failing = {name: [NetworkError("503")] * (number % 5) for number, name in enumerate(names)}
    bake(made, hub, shelf)
    assert made.counts() == {"ready": 20} and set(shelf.puts.values()) == {1}
    assert [row.attempts for row in made.rows()] == [1 + number % 5 for number in range(20)]
    assert made.error_counts() == {}


def test_what_fails_to_the_end_is_taken_up_by_the_next_run(tmp_path: Path) -> None:
    hub, shelf = Hub(counted=True), Shelf()
    made, (good, bad) = planned(tmp_path, hub, shelf, 2)
    hub.failing[bad] = [NetworkError("503")] * 6
    crew = bake(made, hub, shelf)
    assert (crew.done, crew.failed) == (2, 1) and by_base(made)[bad].state == "failed"
    assert report.lost(made) == 1 and [row.base for row in report.failures(made)] == [bad]
    bake(made, hub, shelf)
    assert made.counts() == {"ready": 2} and report.lost(made) == 0
    assert by_base(made)[bad].attempts == 7 and hub.asked["image", good] == 1


def test_a_quota_is_waited_for_and_is_no_try(tmp_path: Path) -> None:
    hub, shelf = Hub(counted=True), Shelf()
    made, names = planned(tmp_path, hub, shelf, 5)
    late = QuotaError("429")
    late.seconds = 0.2
    hub.failing[names[0]] = [late] * 8
    began = time.monotonic()
    bake(made, hub, shelf)
    assert made.counts() == {"ready": 5} and time.monotonic() - began > 1.2
    assert {row.attempts for row in made.rows()} == {1}


def test_after_a_quota_one_image_probes_the_place_and_others_go_on(tmp_path: Path) -> None:
    """Of two places one is used up: its images come one by one again, and the other's do not wait."""
    far, near = Hub("far:1", counted=True), Hub("near:1", counted=True)
    names = [*far.has(30), *near.has(30)]
    made = journal(tmp_path, *names)
    late, most, at_once = QuotaError("429"), 0, 0
    late.seconds = 0.3
    opened = time.monotonic() + 0.5
    ends: dict[str, float] = {}
    lock = threading.Lock()

    def do(row: Row) -> None:
        nonlocal most, at_once
        if row.place == "far:1" and time.monotonic() < opened:
            raise late
        with lock:
            at_once += row.place == "far:1"
            most = max(most, at_once if len(ends) < 32 else 0)
        time.sleep(0.01)
        with lock:
            at_once -= row.place == "far:1"
            ends[row.base] = time.monotonic()
        made.change(row, look=0)

    Crew(made, "look", do, jobs=4).run()
    assert made.waiting("look") == 0 and len(ends) == 60
    assert max(ends[name] for name in names[30:]) < min(ends[name] for name in names[:30])
    assert most <= 3


def test_a_quota_that_is_not_waited_for_leaves_its_images(tmp_path: Path) -> None:
    hub, shelf = Hub(counted=True), Shelf()
    made, names = planned(tmp_path, hub, shelf, 3)
    hub.failing[names[1]] = [QuotaError("429")] * 9
    maker = Maker(made, lambda origin: hub, shelf, added())
    Crew(made, "bake", maker.make, jobs=2, wait=False).run()
    assert made.counts() == {"ready": 2, "failed": 1} and made.error_counts() == {"quota": 1}


def test_a_killed_run_is_gone_on_with_and_puts_nothing_twice(tmp_path: Path) -> None:
    """As after kill -9 between the manifest's PUT and the commit: the target has it, the journal does not."""
    hub, shelf = Hub(), Shelf()
    made, names = planned(tmp_path, hub, shelf, 4)
    bake(made, hub, shelf)
    row = by_base(made)[names[2]]
    made.change(row, state="to-bake", baked=None, address=None, ended=None)
    bake(made, hub, shelf)
    assert made.counts() == {"ready": 4} and set(shelf.puts.values()) == {1}
    assert by_base(made)[names[2]].baked == row.baked


def test_two_names_of_one_image_are_made_once(tmp_path: Path) -> None:
    hub, shelf = Hub(), Shelf()
    names = hub.has(8)
    hub.images |= {name: hub.images[names[0]] for name in names}
    made = journal(tmp_path, *names)
    look(made, hub, shelf)
    bake(made, hub, shelf)
    assert made.counts() == {"ready": 8} and list(shelf.puts.values()) == [1]
    assert len({row.baked for row in made.rows()}) == 1


def test_limit(tmp_path: Path) -> None:
    hub, shelf = Hub(), Shelf()
    made, _ = planned(tmp_path, hub, shelf, 9)
    maker = Maker(made, lambda origin: hub, shelf, added())
    for expected in (4, 8, 9, 9):
        made.afresh("bake", 4)
        Crew(made, "bake", maker.make, jobs=3).run()
        assert made.counts().get("ready") == expected


def test_a_mirror_is_made_once_and_baked_without_the_source(tmp_path: Path) -> None:
    hub, shelf = Hub(counted=True), Shelf()
    made, names = planned(tmp_path, hub, shelf, 3)
    assert bake(made, hub, shelf, None).done == 3
    assert bake(made, hub, shelf, None).done == 0
    rows = list(made.rows())
    assert {tag for _, tag in shelf.tags} == {mirror_tag(hub.images[name].digest) for name in names}
    assert all(row.mirrored == row.image and row.state == "to-bake" for row in rows)
    hub.asked.clear()
    hub.images.clear()
    assert bake(made, hub, shelf).failed == 0
    assert not hub.asked and made.counts() == {"ready": 3}


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), SystemExit(143)])
def test_a_signal_lets_what_is_under_way_end(tmp_path: Path, stop: BaseException) -> None:
    made = journal(tmp_path, *Hub().has(100))
    going = threading.Event()
    done: list[int] = []

    def do(row: Row) -> None:
        going.wait(10)
        time.sleep(0.1)
        made.change(row, look=0)
        done.append(row.id)

    crew = Crew(made, "look", do, jobs=3)
    calls = 0

    def told(*_: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            threading.Timer(0.05, going.set).start()
            raise stop

    crew.told = told
    with pytest.raises(type(stop)):
        crew.run()
    assert set(done) <= {1, 2, 3} and len(done) > 0 and made.waiting("look") == 100 - len(done)


def test_a_thread_that_hangs_does_not_keep_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(crews, "GRACE", 0.3)
    made, forever = journal(tmp_path, *Hub().has(2)), threading.Event()
    crew = Crew(made, "look", lambda row: forever.wait() and None, jobs=2)

    def told(*_: object) -> None:
        raise KeyboardInterrupt

    crew.told = told
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        crew.run()
    assert time.monotonic() - began < 3 and "ending: 2 images are under way" in capsys.readouterr().err
    forever.set()


def test_a_full_disk_ends_the_run(tmp_path: Path) -> None:
    made = journal(tmp_path, *Hub().has(3))

    def do(row: Row) -> None:
        raise NoSpaceError("no space left")

    with pytest.raises(NoSpaceError):
        Crew(made, "look", do, jobs=1).run()


def test_where_everything_is_refused_the_rest_is_not_asked_for(tmp_path: Path) -> None:
    made, asked = journal(tmp_path, *Hub().has(100)), []

    def do(row: Row) -> None:
        asked.append(row.id)
        raise AuthError("401")

    with pytest.raises(AuthError):
        Crew(made, "bake", do, jobs=2).run()
    assert made.counts() == {"new": 80, "failed": 20} and len(asked) < 200


def test_a_long_outage_uses_up_no_tries_and_ends_the_run_at_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crews, "OUTAGE", 0.01)
    monkeypatch.setattr(crews, "PATIENCE", 1.0)
    made = journal(tmp_path, *Hub().has(4))

    def do(row: Row) -> None:
        made.begin(row)
        raise NetworkError("no route")

    with pytest.raises(NetworkError, match="nothing went well for 1 s, at last: no route"):
        Crew(made, "look", do, jobs=1).run()
    assert made.counts() == {"new": 4} and all(row.tries < 6 for row in made.rows())


def test_an_outage_gives_up_no_image_that_failed_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One image has all its tries but one behind it when the outage is seen: that one is not taken of it."""
    monkeypatch.setattr(crews, "OUTAGE", 0.01)
    monkeypatch.setattr(crews, "PATIENCE", 0.2)
    made = journal(tmp_path, *Hub().has(4))
    last = planning.LOOKS["transient"] - 1
    for row in made.rows():
        made.change(row, tries=last if row.id == max(each.id for each in made.rows()) else 0)

    def do(row: Row) -> None:
        raise NetworkError("no route")

    with pytest.raises(NetworkError, match="nothing went well"):
        Crew(made, "look", do, jobs=1).run()
    assert made.counts() == {"new": 4}


# -- what is told --------------------------------------------------------------------------------------------


def session(**changes: object) -> Session:
    given = {"verb": "run", "began": 1e9, "seconds": 4.0, "done": 8, "failed": 1, "bytes": 12_000,
             "requests": {"PUT": 8}, "ended": "complete"}  # fmt: skip
    return Session(**{**given, **changes})  # type: ignore[arg-type]


def test_the_report_names_every_failure(tmp_path: Path) -> None:
    hub, shelf = Hub(), Shelf()
    gone = "hub:1/a/gone:1"
    made = journal(tmp_path, *hub.has(2), gone)
    look(made, hub, shelf)
    bake(made, hub, shelf)
    paths = report.write(made, session())
    assert paths
    told = json.loads(paths[0].read_text())
    assert told["target"] == TO and told["platform"] == str(AMD64)
    assert told["images"]["ready"] == 2 and told["images"]["missing"] == 1 and told["images"]["total"] == 3
    assert told["run"]["per_second"] == 2.0 and told["run"]["began"] == "2001-09-09T01:46:40+00:00"
    assert told["failures"] == [{
        "base": gone, "state": "missing", "error_class": "base missing",
        "error": f"{gone} does not exist", "attempts": 0,
    }]  # fmt: skip
    text = paths[1].read_text()
    assert "| ready | 2 | there |" in text and f"| {gone} | missing | base missing |" in text
    assert "8 images done (2.0 a second), 1 of them failed, 12 kB sent, 8 requests" in text
    assert not list(tmp_path.glob(".report*"))


def test_an_empty_report(tmp_path: Path) -> None:
    made = journal(tmp_path)
    paths = report.write(made, session(done=0, failed=0, seconds=0.0))
    assert paths and json.loads(paths[0].read_text())["failures"] == []
    assert report.write(journal(None), session()) is None


def exported(made: Journal) -> tuple[dict[str, str], list[list[str]]]:
    as_json, as_csv = io.StringIO(), io.StringIO()
    exporting.as_json(as_json, made)
    exporting.as_csv(as_csv, made)
    return json.loads(as_json.getvalue()), list(csv.reader(io.StringIO(as_csv.getvalue())))


def test_export_maps_every_name_to_the_digest(tmp_path: Path) -> None:
    hub, shelf = Hub(), Shelf()
    made, names = planned(tmp_path, hub, shelf, 2)
    made.database.run("INSERT INTO names VALUES (1, 'an \"odd\", name'), (1, 'both'), (2, 'both')")
    assert exported(made) == ({}, [["name", "base", "base_digest", "baked"]])
    bake(made, hub, shelf)
    rows = by_base(made)
    references = {name: f"reg:5000/baked/a/repo@{rows[name].baked}" for name in names}
    table, lines = exported(made)
    assert table == {**references, 'an "odd", name': references[names[0]]}
    assert exporting.ambiguous(made) == ["both"]
    assert lines[1] == [names[0], names[0], rows[names[0]].image, references[names[0]]]
    assert [line[0] for line in lines[1:]] == [names[0], 'an "odd", name', "both", names[1], "both"]


def test_the_same_images_in_a_layout_are_named_as_it_names_them(tmp_path: Path) -> None:
    made = journal(tmp_path, *Hub().has(1), to=f"oci:{tmp_path}/out")
    (row,) = made.rows()
    made.change(row, state="ready", baked="sha256:" + "0" * 64, tag="t")
    ((_, reference),) = made.ready()
    assert reference == f"oci:{tmp_path}/out:baked/a/repo:t@sha256:" + "0" * 64


def test_readers_come_while_it_runs(tmp_path: Path) -> None:
    hub, shelf = Hub(), Shelf()
    made, _ = planned(tmp_path, hub, shelf, 300)
    seen: list[int] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.is_set():
            with contextlib.closing(Journal(tmp_path)) as other:
                seen.append(other.counts().get("ready", 0))

    watcher = threading.Thread(target=watch)
    watcher.start()
    bake(made, hub, shelf)
    ended.set()
    watcher.join()
    assert seen == sorted(seen) and seen[-1] <= 300
