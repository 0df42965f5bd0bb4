"""The other nodes of a job, and the launcher, as one node watches them."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from functools import partial

from runner import variables
from runner.ends import CommandFailed, Died, HeadEnded, HeadLost, Hopeless, Lost, Stopped
from runner.launch import Launch
from runner.meeting import Ended, Late, Limit, Meeting, wait
from runner.runs import Attempt, last_lines

COMES_WITHIN = 180.0  # seconds for a node's first sign of life where there is no Ray that says


class Peers:
    """Head: all others; another node: the head alone."""

    def __init__(self, attempt: Attempt, meeting: Meeting, rank: int, launch: Launch) -> None:
        self.attempt, self.meeting, self.rank, self.launch = attempt, meeting, rank, launch
        self.others = range(1, launch.nodes) if rank == 0 else (0,)
        self._began = time.monotonic()

    @property
    def within(self) -> float:
        """Seconds that the others have to come."""
        return self.launch.ray.ready_within if self.launch.ray else COMES_WITHIN

    def check(self) -> None:
        """Raises what must end this node: Stopped, HeadEnded, or Died naming the node that did."""
        self.check_stop()
        if self.launch.attended and self.meeting.silence("launcher") > self.launch.silence:
            raise Stopped(128 + signal.SIGHUP, f"the launcher was silent for {self.launch.silence:g} s")
        for rank in self.others:
            self._check(rank)

    def check_stop(self) -> None:
        """Raises Stopped if all nodes are asked to end."""
        why = self.meeting.stopped()
        if why is not None:
            raise Stopped(128 + signal.SIGTERM, why or "all nodes are asked to end")

    def await_all(
        self, probe: Callable[[int], bool], to: str, seconds: float, check: Callable[[], None]
    ) -> None:
        """Until `probe` is true of every other node; LaunchError naming the one that is late."""
        limit = self.limit(seconds)
        for rank in self.others:
            try:
                wait(partial(_true, probe, rank), awaited=f"node {rank} to {to}", seconds=limit, check=check)
            except Late as late:
                raise Late(self.failed(rank, late.message)) from late

    def limit(self, seconds: float) -> Limit:
        """For what other nodes must do; while one of them still gets its image, it does not run down."""
        return Limit(seconds, lambda: any(map(self.meeting.fetching, self.others)))

    def _check(self, rank: int) -> None:
        ended = self.meeting.ended(rank)
        if ended is not None and rank == 0:
            raise HeadEnded
        if ended is None:
            silent = self._silent(rank)
            if silent:
                gone = rank == 0 and self.meeting.lives("0")
                raise (HeadLost if gone else Lost)(self.failed(rank, silent))
            return
        kind = CommandFailed if ended.command else Hopeless if ended.hopeless else Died
        raise kind(self.failed(rank, _said(ended)))

    def _silent(self, rank: int) -> str | None:
        who = str(rank)
        if not self.meeting.lives(who):
            late = time.monotonic() - self._began > self.within
            return f"it did not start within {self.within:g} s" if late else None
        if self.meeting.silence(who) > self.launch.silence:
            return f"no sign of life for {self.launch.silence:g} s"
        return None

    def failed(self, rank: int, why: str) -> str:
        """The sentence that names a node and its machine, with the last lines of its log."""
        host = self._host(rank)
        name = f"node {rank} ({host})" if host else f"node {rank}"
        return f"{name} failed: {why}\nits last lines:\n{last_lines(self.attempt.log(rank))}"

    def _host(self, rank: int) -> str | None:
        """As Slurm calls it; None without Slurm."""
        if host := variables.step(self.attempt, rank).get("SLURMD_NODENAME"):
            return host
        try:
            lines = self.attempt.slurm.read_text().splitlines()
        except OSError:
            return None
        hosts = next((line.removeprefix("hosts=").split() for line in lines if line.startswith("hosts=")), [])
        return hosts[rank] if rank < len(hosts) else None


def _true(probe: Callable[[int], bool], rank: int) -> bool | None:
    return probe(rank) or None


def _said(ended: Ended) -> str:
    return ended.why or f"it ended with exit code {ended.code} before the command did"
