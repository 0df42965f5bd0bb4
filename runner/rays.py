"""Starting Ray on a node, and knowing when it is ready. Ends only what it started; never `ray stop`."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from kit import process
from kit.errors import LaunchError
from runner.ends import Died
from runner.launch import RayPlan
from runner.meeting import wait
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

    def bring_up(
        self, head: str | None, until: float, check: Callable[[], None], tell: Callable[[str], None]
    ) -> int:
        """Starts Ray and waits until this node is registered with the head, which may be this one.

        Ray's own limit of 30 s is fixed and too short for a busy machine, so every node has two tries. A
        worker that comes before the head is registered may wait for its own raylet in vain and to the limit,
        though the head stands long since: the head's address must be published late. Returns how many tries
        it took; LaunchError at `until` on the monotonic clock.
        """
        for tries in (1, 2):
            self.child = _start(self.plan, head, self.log, self.env)
            left = until - time.monotonic()
            if wait(self._up, awaited=f"Ray on node {self.rank}", seconds=left, check=check):
                return tries
            if tries == 2:
                self.check()
            tell("Ray gave up starting; once more")
            process.end_group(self.child)
            if self.plan.temp_dir:
                clear(Path(self.plan.temp_dir), None)
        raise AssertionError("two tries either end well or raise")

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

    def _up(self) -> bool | None:
        """True once `ray start` has said that this node is registered, False once it has ended, else None."""
        assert self.child
        if STARTED.search(self.log.read_bytes()):
            return True
        return None if self.child.poll() is None else False


def _start(plan: RayPlan, head: str | None, log: Path, env: Mapping[str, str]) -> process.Child[bytes]:
    """Starts Ray in a session of its own; its output goes to `log`."""
    words = argv(plan, head)
    program = shutil.which("ray", path=env.get("PATH"))
    if program is None:
        raise LaunchError("the image has no `ray` on its PATH", "ray: false in the job file runs without Ray")
    return process.start([program, *words[1:]], what="start Ray", log=log, env=env)


def clear(temp_dir: Path, logs: Path | None) -> None:
    """Removes a node's Ray folder once Ray has ended; its logs are copied to `logs` first, if given."""
    if logs is not None:
        for session in temp_dir.glob("session_*/logs"):
            if not session.parent.is_symlink():
                with contextlib.suppress(OSError, shutil.Error):
                    shutil.copytree(session, logs, symlinks=True, dirs_exist_ok=True)
    shutil.rmtree(temp_dir, ignore_errors=True)
