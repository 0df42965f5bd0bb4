"""Programs beside the command: started when Ray is ready, awaited, watched, and ended with the node."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from functools import partial

from kit import say
from kit.errors import LaunchError, SlipworksError
from runner.egress import plan as egress
from runner.ends import Died
from runner.launch import Launch, Service
from runner.meeting import Late, Meeting, wait
from runner.program import Program, script
from runner.readiness import Readiness, form, taken
from runner.runs import Attempt, last_lines

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0  # seconds before a service is started again: each twice the one before


class Services:
    """The services of one node; `launch.services` of every node's are given."""

    def __init__(self, services: tuple[Service, ...], attempt: Attempt, rank: int, nodes: int) -> None:
        self.ranks = {each.name: _rank(each, nodes) for each in services}
        self.here = [each for each in services if self.ranks[each.name] in (None, rank)]
        self.attempt, self.rank = attempt, rank
        self._running: list[_Running] = []

    def start(self, env: Mapping[str, str], launch: Launch) -> None:
        """Starts those that belong to this node. One on whose port another program listens would seem to be
        ready: it is not started."""
        self._running = [_Running(each, self.attempt, self.rank, env, launch) for each in self.here]
        for each in self._running:
            if port := taken(each.service.ready):
                each.refuse(port)
        for each in self._running:
            if not each.given_up:
                each.start()

    def wait_ready(self, address: str, check: Callable[[], None]) -> None:
        """Until all are ready; each has its own time, from now. `address`: this node's, beside 127.0.0.1."""
        began = time.monotonic()
        for each in self._running:
            service = each.service
            if service.ready is None or each.given_up:
                continue
            left = max(0.0, service.ready_within - (time.monotonic() - began))
            readiness = Readiness(service.ready, address, each.env, each.launch.workdir)
            try:
                wait(partial(_ready, each, readiness), awaited=f"the service {service.name}", seconds=left,
                     check=check)  # fmt: skip
            except Died:
                raise
            except LaunchError as late:
                each.fail(f"was not ready within {service.ready_within:g} s ({service.ready})", late)
            finally:
                readiness.end()

    def addresses(self, meeting: Meeting, seconds: float, check: Callable[[], None]) -> dict[str, str]:
        """Where each service is, as variables for the command; nodes on which one runs alone say it."""
        found = {}
        for name, rank in self.ranks.items():
            at = "127.0.0.1" if rank is None else wait(
                partial(meeting.service, name), awaited=f"the address of the service {name}",
                seconds=seconds, check=check,
            )  # fmt: skip
            found[f"SLIPWORKS_SERVICE_{re.sub(r'[^A-Z0-9]', '_', name.upper())}"] = at
        return found

    def publish(self, address: str, meeting: Meeting) -> None:
        """Says where those are that run on this node alone."""
        for name, rank in self.ranks.items():
            if rank == self.rank:
                meeting.publish_service(name, address)

    def check(self) -> None:
        """Starts again what has ended and may be; raises Died for one that has ended too early."""
        for each in self._running:
            each.tend()


class _Running:
    """One service of this node, and how often it was started again."""

    def __init__(
        self, service: Service, attempt: Attempt, rank: int, env: Mapping[str, str], launch: Launch
    ) -> None:
        self.service, self.rank, self.launch = service, rank, launch
        self.env = {**env, **service.env}
        self.log = attempt.service_log(service.name, rank)
        self.given_up = False
        self._program: Program | None = None
        self._again: float | None = None  # when it is started again
        self._times = 0

    def start(self) -> None:
        words = script(self.service.run)
        if self.service.egress:
            words = egress.prefix(words, self.launch)
        what = f"start the service {self.service.name}"
        try:
            self._program = Program(words, what=what, log=self.log, env=self.env, cwd=self.launch.workdir)
        except SlipworksError as failure:
            if not self.service.optional:
                raise
            self.fail(f"could not be started ({failure.message})", failure)

    def tend(self) -> None:
        if self.given_up:
            return
        if self._again is not None:
            if time.monotonic() >= self._again:
                self._again = None
                self.start()
            return
        code = self._program.code() if self._program else None
        if code is None or (code == 0 and self.service.ready is None):
            return
        if self._times < self.service.restart:
            self._restart(code)
        else:
            self.fail(f"ended with exit code {code} before the command did", None)

    def _restart(self, code: int) -> None:
        assert self._program
        self._program.end(1.0)  # what it has left would be in the way of the next
        pause = min(FIRST_PAUSE * 2**self._times, LONGEST_PAUSE)
        self._times += 1
        self._again = time.monotonic() + pause
        count = f"{self._times} of {self.service.restart}"
        with self.log.open("a") as log:
            log.write(f"--- ended with exit code {code}; start again in {pause:g} s, {count}\n")
        self._say(f"ended with exit code {code}; starting it again in {pause:g} s ({count})")

    def refuse(self, port: int) -> None:
        how = f"cannot listen on port {port}, where another program does already"
        if self.service.optional:
            self.given_up = True
            self._say(f"warning: the job goes on without it, as it {how}")
            return
        raise Died(  # the next attempt may find it free
            f"the service {self.service.name} on node {self.rank} {how}",
            "another port, or a node of one's own: sbatch.exclusive=true",
        )

    def fail(self, how: str, cause: Exception | None) -> None:
        """Ends the job, or, of one that is optional, says so and goes on without it."""
        if self.service.optional:
            self.given_up = True
            self._say(f"warning: the job goes on without it, as it {how}; its last lines:")
            for line in last_lines(self.log).splitlines():
                say.say(line)
            return
        name = f"the service {self.service.name} on node {self.rank}"
        failure = f"{name} {how}; its last lines:\n{last_lines(self.log)}"
        # What came too late may come in time at the next attempt: see ends.hopeless.
        raise (Late if isinstance(cause, Late) else LaunchError if cause else Died)(failure) from cause

    def _say(self, what: str) -> None:
        say.say(f"node {self.rank}: the service {self.service.name}: {what}")


def check_form(service: Service) -> None:
    """LaunchError for a `ready` of none of the forms."""
    if service.ready is not None and form(service.ready) is None:
        raise LaunchError(
            f"the service {service.name} has ready: {service.ready!r}, "
            "expected port:NUMBER, http://ADDRESS, file:/PATH or run:COMMAND"
        )


def _rank(service: Service, nodes: int) -> int | None:
    """The one node that it runs on: the last, apart from the head where there is another; None: all."""
    return {"all": None, "head": 0, "one": nodes - 1}[service.nodes]


def _ready(running: _Running, readiness: Readiness) -> bool | None:
    return True if running.given_up or readiness.is_there() else None
