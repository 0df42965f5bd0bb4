"""Work beside the main thread: how much at once, and that none of it outlives its block."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace

import pytest

from kit import lanes, process
from kit.errors import BuildError
from kit.lanes import Stopped

ROOT = Path(__file__).parents[2]
LONG = 600.0  # seconds that nobody here waits for


def test_as_many_at_once_as_there_are_lanes() -> None:
    met = threading.Barrier(2, timeout=30)
    turns: list[int] = []

    def work(number: int) -> int:
        met.wait()  # breaks where one is alone
        turns.append(met.n_waiting)
        return number

    with lanes.opened(2) as beside:
        begun = [beside.begin(lambda number=number: work(number)) for number in range(6)]
        assert [each.result() for each in begun] == [0, 1, 2, 3, 4, 5]
    assert len(turns) == 6


def test_one_lane_does_one_work_after_the_other() -> None:
    under_way, most = [0], [0]

    def work() -> None:
        under_way[0] += 1
        most[0] = max(most[0], under_way[0])
        time.sleep(0.01)
        under_way[0] -= 1

    with lanes.opened(1) as beside:
        for _ in range(4):
            beside.begin(work)
    assert most == [1]


def endless() -> Iterator[bytes]:
    while True:
        yield b"piece"


def sleeping() -> None:
    process.stream(["sleep", str(LONG)], what="sleep", on_line=lambda line: None)


def test_a_failure_ends_programs_pauses_pieces_and_what_was_not_begun() -> None:
    up = threading.Barrier(4, timeout=30)

    def consume() -> None:
        for _ in beside.wanted(endless()):
            time.sleep(0.001)

    def begin(work: Callable[[], object]) -> Future[object]:
        return beside.begin(lambda: (up.wait(), work()))

    with pytest.raises(ZeroDivisionError), lanes.opened(3) as beside:
        begun = [begin(each) for each in (sleeping, lambda: beside.pause(LONG), consume)]
        waiting = beside.begin(sleeping)
        up.wait()
        raise ZeroDivisionError
    assert [type(each.exception(0)) for each in begun] == [BuildError, Stopped, Stopped]
    assert waiting.cancelled()


def test_a_program_that_begins_late_is_ended_too() -> None:
    up = threading.Event()

    def late() -> None:
        up.set()
        time.sleep(2 * lanes.LOOK)  # longer than it takes to end the others
        sleeping()

    with pytest.raises(ZeroDivisionError), lanes.opened(1) as beside:
        begun = beside.begin(late)
        assert up.wait(30)  # what was not begun would be cancelled
        raise ZeroDivisionError
    assert isinstance(begun.exception(), BuildError)


def test_the_first_failure_is_told_before_others_end() -> None:
    def fail() -> None:
        raise BuildError("second")

    with pytest.raises(BuildError, match="second"), lanes.opened(2) as beside:
        beside.results([beside.begin(sleeping), beside.begin(fail)])
    with lanes.opened(2) as beside:
        assert beside.results([beside.begin(lambda: 1), beside.begin(lambda: 2)]) == [1, 2]


def test_a_second_interruption_ends_nothing_sooner() -> None:
    """Else what is begun after it would run to its end: nobody would look for it any more."""
    begun, ends = threading.Event(), []

    def late() -> None:
        begun.set()
        time.sleep(5 * lanes.LOOK)
        sleeping()

    def end_streams() -> None:
        ends.append(True)
        if len(ends) == 1:
            raise KeyboardInterrupt
        if len(ends) == 2:
            raise SystemExit(143)
        process.end_streams()

    with pytest.MonkeyPatch.context() as patch, pytest.raises(ZeroDivisionError), lanes.opened(1) as beside:
        patch.setattr(lanes, "process", SimpleNamespace(end_streams=end_streams))
        working = beside.begin(late)
        assert begun.wait(30)
        raise ZeroDivisionError
    assert len(ends) > 2 and isinstance(working.exception(0), BuildError)


def test_who_looks_sees_what_failed_before_asking_for_results() -> None:
    with pytest.raises(BuildError, match="early"), lanes.opened(1) as beside:
        beside.look()

        def fail() -> None:
            raise BuildError("early")

        beside.begin(fail)
        beside.begin(lambda: None).result()
        beside.look()


INTERRUPTED = """
import os
from kit import lanes, process
from runner import cli
cli.signal.signal(cli.signal.SIGTERM, cli._terminated)
up = lambda line: os.write(1, f"{line}\\n".encode())  # whole, whoever else writes
with lanes.opened(2) as beside:
    work = lambda: process.stream(["sh", "-c", "echo up; exec sleep 600"], what="sleep", on_line=up)
    begun = [beside.begin(work), beside.begin(work)]
    begun[0].result()
"""


@pytest.mark.parametrize(("sign", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, -2)])
def test_a_signal_ends_them(sign: signal.Signals, code: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-u", "-c", INTERRUPTED], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        cwd=ROOT, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as child:  # fmt: skip
        assert child.stdout
        assert [child.stdout.readline(), child.stdout.readline()] == ["up\n", "up\n"]
        child.send_signal(sign)
        child.communicate(timeout=60)  # their stdout is its: it ends when they have
    assert child.returncode == code
