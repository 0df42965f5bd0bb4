"""The warden ends what has more than it may, keeps the reason, and leaves all others alone."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import pytest

from kit.errors import HostError
from runner.sandboxes import held_limits, processes, warden, written
from runner.sandboxes.nouns import Limits
from runner.sandboxes.processes import Process
from runner.sandboxes.warden import Warden

LIMITS = Limits(cpus=(0,), memory=100 << 20, pids=10, disk=50 << 20)
ALL = ("cpus", "memory", "pids")


class Node:
    """Processes that a test says are there."""

    def __init__(self) -> None:
        self.inside: dict[str, list[Process]] = {}
        self.pinned: list[int] = []
        self.ended: list[int] = []
        self.allowed = True
        self.happened = threading.Condition()

    def belonging(self, namespaces: Collection[str]) -> dict[str, list[Process]]:
        return {each: self.inside.get(each, []) for each in namespaces}

    def kill(self, pid: int, inside: str) -> bool:
        with self.happened:
            if self.allowed:
                self.ended.append(pid)
                self.inside.pop(inside, None)
            self.happened.notify_all()
        return self.allowed

    def pin(self, found: list[Process], cpus: Collection[int]) -> None:
        with self.happened:
            self.pinned += [each.pid for each in found]
            self.happened.notify_all()

    def until(self, what: Callable[[], bool]) -> None:
        with self.happened:
            assert self.happened.wait_for(what, 10)


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Node:
    node = Node()
    for name in ("belonging", "kill", "pin"):
        monkeypatch.setattr(processes, name, getattr(node, name))
    monkeypatch.setattr(processes, "namespace", lambda pid: f"pid:[{pid}]")
    monkeypatch.setattr(
        processes, "shared_memory_once", lambda found: sum(each.memory for each in found) // 2
    )
    return node


@pytest.fixture
def watching(node: Node) -> Iterator[Warden]:
    made = Warden(lambda id: None, pace=0.01, disk_pace=0.01)
    yield made
    for id in ("a", "b"):
        made.forget(id)


def one(pid: int, threads: int = 1, memory: int = 0, parent: int = 0) -> Process:
    return Process(pid, parent, "S", threads, memory)


def test_too_many_processes_and_threads_end_that_sandbox_alone(node: Node, watching: Warden) -> None:
    node.inside = {"pid:[7]": [one(7), one(70, threads=10)], "pid:[8]": [one(8, threads=10)]}
    watching.watch("b", 8, LIMITS, ("cpus",))
    watching.watch("a", 7, LIMITS, ("cpus",))
    node.until(lambda: bool(node.ended))
    assert node.ended == [7]
    assert watching.why("a") == "it had more than its 10 processes and threads: 11"
    assert watching.why("b") == ""


def test_memory_that_is_shared_counts_once(node: Node, watching: Warden) -> None:
    """By a second and closer look, which the fake answers with half."""
    node.inside = {"pid:[7]": [one(7, memory=150 << 20)], "pid:[8]": [one(8, memory=250 << 20)]}
    watching.watch("a", 7, LIMITS, ("cpus",))
    watching.watch("b", 8, LIMITS, ("cpus",))
    node.until(lambda: bool(node.ended))
    assert (node.ended, watching.why("a")) == ([8], "")
    assert watching.why("b") == "it had more than its 100 MB of memory: 125 MB"


def test_what_the_engine_holds_is_not_looked_at(node: Node, watching: Warden) -> None:
    node.inside = {"pid:[7]": [one(7, threads=500, memory=1 << 40)]}
    looked = threading.Event()

    def disk() -> int:
        looked.set()
        return 0

    watching.watch("a", 7, LIMITS, ALL, disk)
    assert looked.wait(10)
    assert not node.ended and not node.pinned and watching.why("a") == ""


def test_processors_are_held_by_affinity_where_no_control_group_does(node: Node, watching: Warden) -> None:
    node.inside = {"pid:[7]": [one(7)]}
    watching.watch("a", 7, LIMITS)
    assert node.pinned == [7]  # before it begins anything
    node.inside = {"pid:[7]": [one(7), one(77)]}
    node.until(lambda: 77 in node.pinned)


def test_what_was_written_is_measured_and_ended(node: Node, watching: Warden) -> None:
    amounts = iter([HostError("it ends just now"), ValueError("a defect"), None, 50 << 20, 51 << 20])

    def disk() -> int | None:
        found = next(amounts)
        if isinstance(found, Exception):
            raise found
        return found

    watching.watch("a", 7, LIMITS, ALL, disk)
    node.until(lambda: bool(node.ended))
    assert watching.why("a") == "it had more than its 50 MB of disk: 51 MB"
    assert watching.use("a").disk == 51 << 20


def test_one_with_very_many_files_is_ended_and_keeps_no_other_from_being_looked_at(
    node: Node, watching: Warden
) -> None:
    counted, looks, over = threading.Event(), threading.Semaphore(0), threading.Event()

    def never() -> int:
        counted.set()
        over.wait(10)
        raise TimeoutError("so many files")

    def other() -> int:
        looks.release()
        return 51 << 20 if over.is_set() else 0

    watching.watch("a", 7, LIMITS, ALL, never)
    assert counted.wait(10)
    watching.watch("b", 8, LIMITS, ALL, other)
    for _ in range(3):
        assert looks.acquire(timeout=10)  # while the first is still being counted
    assert not node.ended
    over.set()
    node.until(lambda: sorted(node.ended) == [7, 8])
    assert watching.why("a") == ("it had so many files that counting them took too long, which counts as "
                                 "more than its 50 MB of disk")  # fmt: skip
    assert watching.why("b") == "it had more than its 50 MB of disk: 51 MB"


def test_a_disk_that_tells_nothing_is_said_once(
    node: Node, watching: Warden, capsys: pytest.CaptureFixture[str]
) -> None:
    looks = threading.Semaphore(0)

    def nothing() -> None:
        looks.release()

    watching.watch("a", 7, LIMITS, ALL, nothing)
    for _ in range(3 * warden.UNKNOWN):
        assert looks.acquire(timeout=10)
    watching.forget("a")
    assert capsys.readouterr().err.count("what the sandbox a writes is not known, so not limited") == 1
    assert not node.ended


def runs(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_what_is_not_counted_in_time_is_told_and_nothing_of_it_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(written, "LONGEST", 0.3)
    pid = tmp_path / "pid"
    with pytest.raises(TimeoutError):
        written.counting(["sh", "-c", f"sleep 60 & echo $! >{pid}; wait"])
    end = time.monotonic() + 10
    while runs(int(pid.read_text())) and time.monotonic() < end:
        time.sleep(0.02)
    assert not runs(int(pid.read_text()))
    assert written.counting(["sh", "-c", "exit 124"]).code == 124  # at once: its own


def test_the_engine_ends_what_may_not_be_signalled(node: Node) -> None:
    ended = threading.Event()
    node.allowed, node.inside = False, {"pid:[7]": [one(7, threads=500)]}
    watching = Warden(lambda id: ended.set(), pace=0.01)
    watching.watch("a", 7, LIMITS)
    assert ended.wait(10)
    watching.forget("a")


def test_threads_end_with_the_last_that_is_watched(node: Node) -> None:
    watching = Warden(lambda id: None, pace=60, disk_pace=60)
    node.inside = {"pid:[7]": [one(7)]}
    watching.watch("a", 7, LIMITS, (), lambda: 0)
    begun = list(watching._threads.values())
    assert len(begun) == 2
    watching.forget("a")
    for each in begun:
        each.join(10)
        assert not each.is_alive()
    watching.forget("a")  # again


def test_sizes_are_told_in_megabytes() -> None:
    assert warden._size(1536 << 10) == "2 MB"


def test_our_own_namespace_is_never_ended() -> None:
    own = processes.namespace("self")
    assert own.startswith("pid:[")
    assert processes.kill(os.getpid(), own) and processes.kill(os.getpid(), "")
    assert processes.kill(os.getpid(), "pid:[1]")  # its number is another's by now
    processes.freeze(own)


def test_children_belong_to_the_namespace_of_their_parents(monkeypatch: pytest.MonkeyPatch) -> None:
    """One below it, as `unshare --pid` makes inside, hides nothing."""
    there = [one(1), one(5, parent=1), one(6, parent=5), one(7, parent=6), one(9, parent=1)]
    spaces = {5: "sandbox", 7: "made inside", 6: "made inside"}
    monkeypatch.setattr(processes, "_all", lambda: iter(there))
    monkeypatch.setattr(processes, "namespace", lambda pid: spaces.get(pid, "host"))
    assert [each.pid for each in processes.belonging(["sandbox"])["sandbox"]] == [5, 6, 7]


def test_files_without_a_name_are_counted(tmp_path: Path) -> None:
    own = [os.getpid()]
    before = written.nameless(own)
    with (tmp_path / "hidden").open("wb") as file:
        file.write(b"x" * (1 << 20))
        file.flush()
        os.fsync(file.fileno())
        assert written.nameless(own) == before
        (tmp_path / "hidden").unlink()
        assert written.nameless(own) - before >= 1 << 20
    assert written.nameless([]) == 0


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(("limits", "expected"), [
    (LIMITS, {"cpus", "memory", "pids"}),
    (Limits(cpus=(1,), memory=1 << 20, pids=5), set()),
    (Limits(cpus=(), memory=100 << 20, pids=5), {"cpus", "memory"}),
])  # fmt: skip
def test_what_control_groups_hold_is_read_from_the_kernel(
    version: int, limits: Limits, expected: set[str], tmp_path: Path
) -> None:
    (tmp_path / "proc/7").mkdir(parents=True)
    kinds = {"memory": "memory.limit_in_bytes", "pids": "pids.max", "cpuset": "cpuset.cpus"}
    values = {"memory": str(100 << 20), "pids": "10", "cpuset": "0"}
    if version == 2:
        (tmp_path / "proc/7/cgroup").write_text("0::/one\n")
        kinds["memory"] = "memory.max"
    else:
        (tmp_path / "proc/7/cgroup").write_text(
            "4:memory:/one\n3:cpuset:/one\n2:cpu,cpuacct:/\n1:pids:/one\n0::/\n"
        )
    for kind, file in kinds.items():
        folder = tmp_path / "sys/fs/cgroup" / (kind if version == 1 else "") / "one"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(f"{values[kind]}\n")
    assert held_limits.held(7, limits, tmp_path) == expected


def test_limits_without_a_number_are_none(tmp_path: Path) -> None:
    (tmp_path / "proc/7").mkdir(parents=True)
    (tmp_path / "proc/7/cgroup").write_text("0::/one\n")
    folder = tmp_path / "sys/fs/cgroup/one"
    folder.mkdir(parents=True)
    for file in ("memory.max", "pids.max"):
        (folder / file).write_text("max\n")
    (folder / "cpuset.cpus").write_text("\n")
    assert held_limits.held(7, LIMITS, tmp_path) == frozenset()
    assert held_limits.held(8, LIMITS, tmp_path) == frozenset()
