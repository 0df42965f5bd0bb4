"""Slots, the line before them, and when sandboxes have lived long enough: pure parts of the desk."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from kit.errors import HostError
from runner.sandboxes import lifetimes, reached
from runner.sandboxes.nouns import Phase, Session
from runner.sandboxes.settings import Settings
from runner.sandboxes.slots import FIRST, LONGEST, Line, Pace, Place, Slots, planned, processors
from tests.unit.parts_desk import wish

GB = 1 << 30


@pytest.mark.parametrize(
    "numbers, memory, settings, expected",
    [
        (range(8), 64 * GB, {"cpus": 4}, ((0, 1, 2, 3), (4, 5, 6, 7))),
        (range(8), 64 * GB, {"cpus": 2, "reserve": 3}, ((3, 4), (5, 6))),
        (range(8), 20 * GB, {"cpus": 2}, ((0, 1), (2, 3))),  # memory for two
        ([3, 7], 64 * GB, {"cpus": 4}, ((3, 7),)),  # a small machine has one all the same
        (range(2), GB, {"cpus": 1}, ((0,),)),
        ([0, 1], 64 * GB, {"cpus": 1, "slots": 3}, ((0,), (1,), (0,))),
        ([0, 1, 2], GB, {"cpus": 2, "slots": 3}, ((0, 1), (0, 2), (1, 2))),
        (range(4), GB, {"cpus": 1, "slots": 2, "reserve": 1}, ((1,), (2,))),
    ],
)
def test_a_node_has_the_slots_that_its_processors_and_memory_hold(
    numbers: range, memory: int, settings: dict[str, Any], expected: object
) -> None:
    assert planned(numbers, memory, Settings(**settings)) == expected


def test_a_reserve_of_all_leaves_nothing() -> None:
    with pytest.raises(HostError, match="found 2, of which 2 are reserved"):
        planned([0, 1], GB, Settings(reserve=2))


def test_only_processors_of_this_process_are_given() -> None:
    here = processors({})
    assert len(here) > 0 and set(here) <= os.sched_getaffinity(0)
    assert processors({"SLURM_CPUS_ON_NODE": "1"}) == here[:1], "of a job, those that it was given"
    assert processors({"SLURM_CPUS_ON_NODE": "4096"}) == here == processors({"SLURM_CPUS_ON_NODE": "?"})


def test_slots_are_taken_and_given_back() -> None:
    slots = Slots([(0, 1), (2, 3), (4, 5)])
    assert slots.take("a", 2) == (0, 1, 2, 3)
    assert slots.take("b", 2) is None and slots.free == 1, "who gets nothing holds nothing"
    assert slots.take("b", 1) == (4, 5)
    slots.give("a")
    slots.give("a")
    assert (slots.free, slots.total) == (2, 3)
    assert slots.take("c", 1) == (0, 1)


def test_one_that_runs_already_keeps_its_processors_and_none_is_too_many() -> None:
    slots = Slots([(0, 1), (2, 3)])
    slots.adopt("old", 1, (2, 3))
    assert slots.take("new", 1) == (0, 1)
    slots.adopt("more", 4, (8, 9))
    assert slots.free == 0
    for id in ("old", "new", "more"):
        slots.give(id)
    assert slots.free == 2


def test_nobody_in_the_line_is_passed() -> None:
    line = Line()
    for id, until in (("a", 5.0), ("b", 3.0), ("c", 9.0)):
        line.add(id, Place(1, until))
    assert line.late(4.9) == ["b"] and len(line) == 3
    line.leave("a")
    line.leave("a")
    assert line.first() == ("b", Place(1, 3.0))
    line.leave("b")
    line.leave("c")
    assert line.first() is None


def test_who_is_refused_is_told_when_by_what_was_seen_and_each_a_later_time() -> None:
    pace = Pace()
    assert pace.seconds(0.0, 1, 2) == FIRST / 2
    for _ in range(200):
        pace.ended(60.0)
    assert pace.seconds(100.0, 1, 6) == 10.0, "of six that last 60 s one ends every 10 s"
    assert [pace.seconds(100.0, 1, 6) for _ in range(2)] == [20.0, 30.0]
    assert pace.seconds(131.0, 2, 6) == 20.0, "those that were awaited came"
    assert max(pace.seconds(200.0, 1, 6) for _ in range(50)) == LONGEST


def session(phase: Phase = "ready", **more: object) -> Session:
    return Session(id="0" * 16, wish=wish(), phase=phase, **more)  # type: ignore[arg-type]


def test_idle_is_one_that_nothing_happened_to() -> None:
    settings = Settings(idle=10.0)
    told = lifetimes.idle(session(began=1.0, started=2.0, ready=5.0, used=4.0), settings, 15.0)
    assert told == "it was idle for 10 s"
    assert lifetimes.idle(session(began=1.0, ready=5.0, used=5.1), settings, 15.0) is None
    assert lifetimes.idle(session("paused", used=1.0), settings, 15.0)
    assert not lifetimes.idle(session("starting", began=1.0), settings, 500.0)
    assert not lifetimes.idle(session("queued", began=1.0), settings, 500.0)
    assert not lifetimes.idle(session(), Settings(idle=0.0), 1e9)


def test_the_longest_time_counts_from_the_container_s_start() -> None:
    settings = Settings(longest=100.0)
    assert lifetimes.over(session(began=1.0, started=50.0, used=149.0), settings, 149.9) is None
    assert lifetimes.over(session(began=1.0, started=50.0, used=149.0), settings, 150.0)
    assert not lifetimes.over(session("queued", began=1.0), settings, 1e9)
    assert not lifetimes.over(session(started=1.0), Settings(longest=0.0), 1e9)


def test_the_address_is_a_number_that_can_be_published_at(tmp_path: Path) -> None:
    assert reached.address(Settings()) == "127.0.0.1"
    assert reached.address(Settings(address="localhost")) == "127.0.0.1"
    assert reached.address(Settings(listen="0.0.0.0")) == reached.own() != "0.0.0.0"
    with pytest.raises(HostError, match=r"'no\.such\.invalid' is no IPv4 address"):
        reached.address(Settings(address="no.such.invalid"))
