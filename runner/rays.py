"""Starting Ray on a node, and knowing when it is ready. Ends only what it started; never `ray stop`."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from kit import process
from kit.errors import LaunchError
from runner.ends import Died
from runner.launch import RayPlan
from runner.meeting import Meeting, T, wait
from runner.runs import last_lines

PORTS = (
    "port",
    "node-manager-port",
    "object-manager-port",
    "dashboard-port",
    "dashboard-agent-listen-port",
    "dashboard-agent-grpc-port",
    "runtime-env-agent-port",
    "metrics-export-port",
    "ray-client-server-port",
)
"""The ports that Ray fixes before it binds them, by the name of their option."""

HEAD_ONLY = frozenset({"port", "dashboard-port", "ray-client-server-port"})
STARTED = re.compile(rb"Ray runtime started\.")  # printed once this node's raylet is registered with the head


def argv(plan: RayPlan, head: str | None) -> list[str]:
    """The command that starts Ray here: as the head, or joining the head at `host:port`."""
    words = ["ray", "start", "--block", "--disable-usage-stats"]  # --block: its death ends its container
    if head is None:
        words += ["--head", "--include-dashboard=false", "--no-monitor"]  # no autoscaler: the nodes are given
    else:
        words += [f"--address={head}"]
    # Workers bind port 0 themselves: no choice to race with, unlike a range that other jobs use too.
    words += ["--min-worker-port=0", "--max-worker-port=0"]
    for option, value in (
        ("node-ip-address", plan.node_ip),
        ("num-cpus", plan.num_cpus),
        ("num-gpus", plan.num_gpus),
        ("object-store-memory", plan.object_store_memory),
        ("plasma-directory", plan.plasma_directory),
        ("temp-dir", plan.temp_dir),
    ):
        if value is not None:
            words.append(f"--{option}={value}")
    words += [
        f"--{name}={port}" for name, port in plan.ports.items() if head is None or name not in HEAD_ONLY
    ]
    return [*words, *plan.args]


def address(plan: RayPlan) -> str:
    """Where the head can be joined."""
    return f"{plan.node_ip or '127.0.0.1'}:{plan.ports.get('port', 6379)}"


class Ray:
    """Ray on one node, from its start to its end."""

    def __init__(self, plan: RayPlan, rank: int, log: Path, env: Mapping[str, str]) -> None:
        self.plan, self.rank, self.log, self.env = plan, rank, log, env
        self.child: process.Child[bytes] | None = None
        self._said_before = 0

    def lead(
        self, meeting: Meeting, until: float, check: Callable[[], None], tell: Callable[[str], None]
    ) -> int:
        """Starts Ray and waits until the head, which is here, is registered; `join` is then said of rank 0.

        Its address is published before, when its port opens: to start takes the others seconds as well, and
        what they need of the head they wait for themselves. It is withdrawn if the head must start once more.
        Ray's own limit of 30 s is fixed and too short for a busy machine, so it has two tries. Returns how
        many it took; LaunchError at `until` on the monotonic clock.
        """
        early = not self._answers()  # else the port is somebody else's still
        for tries in (1, 2):
            self._start(None)
            up = partial(self._leads, meeting) if early else self._up
            if _await(up, f"Ray on node {self.rank}", until, check):
                meeting.publish_head(address(self.plan))
                meeting.join(self.rank)
                return tries
            early = False
            meeting.withdraw_head()
            self._give_up(tries, tell)
        raise AssertionError("two tries either end well or raise")

    def join(
        self, meeting: Meeting, until: float, check: Callable[[], None], tell: Callable[[str], None]
    ) -> int:
        """As `lead`, with the head elsewhere: until both this node and the head are registered.

        A try that began before the head was registered is one more: it fails where Ray waits too short a time
        for a slow head, or the head has begun anew.
        """
        for tries in (1, 2) if meeting.joined(0) else (0, 1, 2):
            there = partial(_head, meeting, registered=tries > 0)
            head = _await(there, "the head's address", until, check)
            self._start(head)
            if _await(partial(self._joins, meeting), f"Ray on node {self.rank}", until, check):
                return max(tries, 1)
            self._give_up(tries, tell)
        raise AssertionError("three tries either end well or raise")

    def check(self) -> None:
        """Raises Died once Ray has ended."""
        if self.child and self.child.poll() is not None:
            code, lines = self.child.returncode, last_lines(self.log)
            raise Died(f"Ray ended on node {self.rank} with exit code {code}; its last lines:\n{lines}")

    def kill(self) -> None:
        """At once: it keeps nothing that anyone needs, and drains for seconds if asked politely."""
        if self.child:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.child.pid, signal.SIGKILL)

    def _start(self, head: str | None) -> None:
        """In a session of its own; its output goes to `log`, after that of an earlier try."""
        words = argv(self.plan, head)
        program = shutil.which("ray", path=self.env.get("PATH"))
        if program is None:
            hint = "ray: false in the job file runs without Ray"
            raise LaunchError("the image has no `ray` on its PATH", hint)
        self._said_before = self.log.stat().st_size if self.log.exists() else 0
        self.child = process.start([program, *words[1:]], what="start Ray", log=self.log, env=self.env)

    def _give_up(self, tries: int, tell: Callable[[str], None]) -> None:
        """Ends a try that has failed; raises Died where that was the second."""
        assert self.child
        if tries == 2:
            self.check()
        tell("Ray gave up starting; once more")
        process.end_group(self.child)
        if self.plan.temp_dir:
            clear(Path(self.plan.temp_dir), None)

    def _leads(self, meeting: Meeting) -> bool | None:
        """`_up`; the address is published once."""
        if not meeting.leads() and self._answers():
            meeting.publish_head(address(self.plan))
        return self._up()

    def _joins(self, meeting: Meeting) -> bool | None:
        """`_up`, and the head is, too; False once the head has withdrawn."""
        if not meeting.leads():
            return False
        if (up := self._up()) and not meeting.joined(0):
            assert self.child
            return None if self.child.poll() is None else False
        return up

    def _answers(self) -> bool:
        """Whether something listens where the head is to be joined."""
        host, _, port = address(self.plan).rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
        except OSError:
            return False
        return True

    def _up(self) -> bool | None:
        """True once `ray start` has said that this node is registered, False once it has ended, else None."""
        assert self.child
        if STARTED.search(self.log.read_bytes(), self._said_before):
            return True
        return None if self.child.poll() is None else False


def _await(probe: Callable[[], T | None], awaited: str, until: float, check: Callable[[], None]) -> T:
    return wait(probe, awaited=awaited, seconds=until - time.monotonic(), check=check)


def _head(meeting: Meeting, registered: bool) -> str | None:
    """Where the head can be joined, once it can; registered: not before it has begun for good."""
    return meeting.head() if meeting.joined(0) or not registered else None


def clear(temp_dir: Path, logs: Path | None) -> None:
    """Removes a node's Ray folder once Ray has ended; its logs are copied to `logs` first, if given."""
    if logs is not None:
        for session in temp_dir.glob("session_*/logs"):
            if not session.parent.is_symlink():
                with contextlib.suppress(OSError, shutil.Error):
                    shutil.copytree(session, logs, symlinks=True, dirs_exist_ok=True)
    shutil.rmtree(temp_dir, ignore_errors=True)
