"""Holds limits of sandboxes that an engine cannot hold here: processes, memory, processors, disk.

It looks every second or so, and ends what has more than it may. So a limit may be passed for a moment, which
a control group would not allow; and a sandbox that passes it ends as a whole.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection

from msgspec import Struct

from kit import say
from runner.sandboxes import processes
from runner.sandboxes.nouns import Limits, Use

PACE = 1.0  # seconds between two looks at processes
DISK_PACE = 3.0  # and at what was written
SHARE, DISK_SHARE = 20, 5
"""A look that takes long is repeated after so many times as long; one at a disk waits for it as a rule."""
LONGEST_PAUSE = 60.0  # seconds between two looks at a disk, however long they take
UNKNOWN = 5  # looks in a row that tell nothing, after which it is said
Measure = Callable[[], int | None]
"""Bytes that a sandbox has written; None: not known now. TimeoutError: so many files that to count them took
longer than it may, which is more than any disk of a sandbox."""


class _Watched(Struct, frozen=True, kw_only=True):
    """held: limits that the engine holds by itself ("cpus", "memory", "pids", "disk")."""

    id: str
    pid: int
    namespace: str
    limits: Limits
    held: frozenset[str]
    disk: Measure | None

    @property
    def by_processes(self) -> bool:
        return not {"cpus", "memory", "pids"} <= self.held


class Warden:
    """Watches sandboxes from threads of its own: one looks at the processes of all, and each disk has one for
    itself, so that none waits for another's many files. Any thread may call it; all end with what they watch.

    end(id)  the engine's way to kill one, where a signal is not allowed to us.
    """

    def __init__(self, end: Callable[[str], None], pace: float = PACE, disk_pace: float = DISK_PACE) -> None:
        self._end = end
        self._pace, self._disk_pace = pace, disk_pace
        self._watched: dict[str, _Watched] = {}
        self._why: dict[str, str] = {}
        self._disk: dict[str, int] = {}
        self._lock = threading.Lock()
        self._threads: dict[str, threading.Thread] = {}
        self._woken = threading.Condition(self._lock)

    def watch(
        self, id: str, pid: int, limits: Limits, held: Collection[str] = (), disk: Measure | None = None
    ) -> None:
        """Begins to watch a sandbox by its first process (as this host numbers it). Where that has ended
        already there is nothing to watch."""
        one = _Watched(
            id=id, pid=pid, namespace=processes.namespace(pid), limits=limits, held=frozenset(held), disk=disk
        )
        if limits.cpus and "cpus" not in one.held and one.namespace:  # what it begins from now on inherits it
            processes.pin(processes.belonging([one.namespace])[one.namespace], limits.cpus)
        with self._lock:
            self._why.pop(id, None)
            self._watched[id] = one
            if one.by_processes and one.namespace and "processes" not in self._threads:
                self._begin("processes", self._go)
            if disk and "disk" not in one.held:
                self._begin(f"disk {id}", lambda: self._measure(one, disk))
            self._woken.notify_all()

    def forget(self, id: str) -> None:
        """Idempotent. What is known of its end is forgotten, too."""
        with self._lock:
            for table in (self._watched, self._why, self._disk):
                table.pop(id, None)
            self._woken.notify_all()

    def why(self, id: str) -> str:
        """For what it was ended; empty if it was not."""
        return self._why.get(id, "")

    def root(self, id: str) -> tuple[int, str]:
        """The first process of one that is watched, and its namespace; (0, "") of others."""
        one = self._watched.get(id)
        return (one.pid, one.namespace) if one else (0, "")

    def use(self, id: str) -> Use:
        """What it uses now; disk: at the last look."""
        one = self._watched.get(id)
        return use_of(one.namespace if one else "", self._disk.get(id))

    # Threads

    def _begin(self, name: str, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, name=f"warden: {name}", daemon=True)
        self._threads[name] = thread
        thread.start()

    def _go(self) -> None:
        """Looks at the processes of all, while there are any."""
        while True:
            began = time.monotonic()
            try:
                self._look_at_processes()
            except Exception as failure:  # what watches goes on, whatever becomes of one look
                say.once(f"note: a look at sandboxes failed: {type(failure).__name__}: {failure}")
            pace = max(self._pace, SHARE * (time.monotonic() - began))
            with self._lock:
                self._woken.wait_for(lambda: not self._watched, pace)
                if not self._watched:
                    del self._threads["processes"]
                    return

    def _measure(self, one: _Watched, disk: Measure) -> None:
        """Looks at one disk, while it is watched."""
        unknown = 0
        while self._goes_on(one):
            began = time.monotonic()
            try:
                why = self._look_at_disk(one, disk)
            except Exception as failure:  # it may end just now; and what watches goes on
                why = f"{type(failure).__name__}: {failure}"
            unknown = unknown + 1 if why else 0
            if unknown == UNKNOWN and self._goes_on(one) and processes.namespace(one.pid) == one.namespace:
                say.once(f"note: what the sandbox {one.id} writes is not known, so not limited: {why}")
            pace = max(self._disk_pace, min(LONGEST_PAUSE, DISK_SHARE * (time.monotonic() - began)))
            with self._lock:
                self._woken.wait_for(lambda: not self._goes_on(one), pace)
        with self._lock:
            if self._threads.get(f"disk {one.id}") is threading.current_thread():
                del self._threads[f"disk {one.id}"]

    def _goes_on(self, one: _Watched) -> bool:
        return self._watched.get(one.id) is one and one.id not in self._why

    def _look_at_disk(self, one: _Watched, disk: Measure) -> str:
        """Why nothing is known of it; empty: it is, and what has more than it may is ended."""
        try:
            used = disk()
        except TimeoutError:
            self._finish(one, "it had so many files that counting them took too long, which counts as more "
                              f"than its {_size(one.limits.disk)} of disk")  # fmt: skip
            return ""
        if used is None:
            return "nothing was told"
        with self._lock:
            if self._watched.get(one.id) is one:
                self._disk[one.id] = used
        if used > one.limits.disk:
            self._finish(one, f"it had more than its {_size(one.limits.disk)} of disk: {_size(used)}")
        return ""

    def _look_at_processes(self) -> None:
        with self._lock:
            some = {each.namespace: each for each in self._watched.values() if each.by_processes}
        some.pop("", None)
        for namespace, found in processes.belonging(some).items():
            one = some[namespace]
            if found and (why := _excess(one, found)):
                self._finish(one, why)
            elif one.limits.cpus and "cpus" not in one.held:
                processes.pin(found, one.limits.cpus)

    def _finish(self, one: _Watched, why: str) -> None:
        with self._lock:
            if self._watched.get(one.id) is not one or one.id in self._why:
                return
            self._why[one.id] = why
        say.say(f"sandbox {one.id} is ended: {why}")
        if not processes.kill(one.pid, one.namespace):
            self._end(one.id)


def use_of(namespace: str, disk: int | None = None) -> Use:
    """What a PID namespace uses now; nothing is known of an empty one."""
    if not namespace:
        return Use(disk=disk)
    found = processes.belonging([namespace])[namespace]
    return Use(
        memory=processes.shared_memory_once(found), pids=sum(each.threads for each in found), disk=disk
    )


def _excess(one: _Watched, found: list[processes.Process]) -> str:
    """What it has too much of, in words; empty: nothing."""
    threads = sum(each.threads for each in found)
    if "pids" not in one.held and threads > one.limits.pids:
        return f"it had more than its {one.limits.pids} processes and threads: {threads}"
    if "memory" not in one.held and sum(each.memory for each in found) > one.limits.memory:
        memory = processes.shared_memory_once(found)
        if memory > one.limits.memory:
            return f"it had more than its {_size(one.limits.memory)} of memory: {_size(memory)}"
    return ""


def _size(count: int) -> str:
    return f"{count / (1 << 20):.0f} MB"
