"""What runs on every node of a job, inside its container: facts, fixes, Ray, the command, and the end of all.

Node 0 is the head: it runs the command, and its exit code is the command's. The others end when it ends.
Whatever ends a node, it ends all that it started, and nothing else.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from msgspec import json
from msgspec.structs import replace

from kit import files, process, say
from kit.errors import LaunchError, SlipworksError
from runner import facts as facts_
from runner import family, fixing, ports, rays
from runner import launch as launch_
from runner.events import Events
from runner.facts import Facts
from runner.launch import Launch, RayPlan
from runner.meeting import Ended, Meeting, Pulse, wait
from runner.runs import Attempt, RunFolder, last_lines


class Stopped(BaseException):
    """The node is asked to end; carries the exit code. Once asked, it is not asked again: see `_signals`."""

    asked = False

    def __init__(self, code: int, why: str) -> None:
        super().__init__(why)
        self.code = code
        self.why = why
        Stopped.asked = True


def run(root: Path, attempt: int, rank: int) -> int:
    """Is node `rank` of the run in `root`, until the job ends. Returns the node's exit code."""
    family.adopt_orphans()
    folder = RunFolder(root)
    launch = launch_.read(folder.launch)
    node = Node(folder, folder.attempt(attempt), rank, launch)
    code = 1
    with _signals(), Pulse(node.meeting, str(rank)):
        try:
            with ports.held(f"{launch.run_id}-{rank}") as base:
                node.look(base)
                code = node.lead() if rank == 0 else node.follow()
            node.meeting.end(rank, Ended(code))
        except HeadEnded:
            code = 0
            node.meeting.end(rank, Ended(code))
        except Stopped as stop:
            code = stop.code
            node.tell(f"ending: {stop.why}")
            node.meeting.end(rank, Ended(code, stop.why))
        except SlipworksError as failure:
            node.meeting.end(rank, Ended(failure.code, failure.message))
            raise
        except Exception as unforeseen:
            node.meeting.end(rank, Ended(1, f"{type(unforeseen).__name__}: {unforeseen}"))
            raise
        finally:
            node.clear(keep_logs=code != 0)
    return code


class Node:
    """One node and what it has started."""

    def __init__(self, folder: RunFolder, attempt: Attempt, rank: int, launch: Launch) -> None:
        self.folder, self.attempt, self.rank, self.launch = folder, attempt, rank, launch
        self.meeting = Meeting(attempt.meeting)
        self.events = Events(attempt.events(str(rank)), f"node {rank}")
        self.ray: process.Child[bytes] | None = None
        self.command: process.Child[bytes] | None = None
        self.events.mark("node started")

    def tell(self, message: str) -> None:
        say.say(f"node {self.rank}: {message}")

    def look(self, port_base: int) -> None:
        """Gathers the facts, and lets the fixes change the launch."""
        facts = facts_.gather(self.rank, self.launch.nodes, port_base)
        files.write(self.attempt.facts(self.rank), _recorded(facts), mode=0o600)
        plan = self.launch
        if plan.ray and self.folder.token.exists():
            plan = replace(plan, ray=replace(plan.ray, token_file=str(self.folder.token)))
        self.launch, applied = fixing.fixed(facts, plan)
        for fix in applied:
            self.tell(f"fix {fix.name}: {fix.reason}")
        self.events.mark("fixes applied", fixes=[fix.name for fix in applied])

    def lead(self) -> int:
        """The head: brings up Ray, runs the command, returns its exit code."""
        where: dict[str, str] = {}
        if self.launch.ray:
            where = {"RAY_ADDRESS": self._start_head()}
        self.tell("running the command")
        self.events.mark("command started")
        self.command = self._start_command({**self.env(), **where, **self.launch.command_env})
        code = wait(self._command_ended, awaited="the command", seconds=float("inf"), check=self.check)
        self.events.mark("command ended", code=code)
        return code

    def follow(self) -> int:
        """A worker: joins Ray and stays until the head has ended, which raises HeadEnded."""
        plan = self.launch.ray
        assert plan is not None, "a job of several nodes has Ray"
        within = plan.ready_within
        head = wait(self.meeting.head, awaited="the head's address", seconds=within, check=self.check)
        self._bring_up(plan, head)
        self.meeting.join(self.rank)
        self.events.mark("joined")
        wait(lambda: None, awaited="the head's end", seconds=float("inf"), check=self.check)
        return 0

    def env(self) -> dict[str, str]:
        """The container's environment, the job's over it, the secrets over both."""
        secrets: dict[str, str] = {}
        with contextlib.suppress(FileNotFoundError):
            secrets = json.decode(self.folder.secrets.read_bytes(), type=dict[str, str])
        job = {"SLIPWORKS_RUN": str(self.folder.root), "SLIPWORKS_RANK": str(self.rank)}
        return {**os.environ, **self.launch.env, **secrets, **job}

    def check(self) -> None:
        """Raises what must end this node: a stop, another node's end or silence, Ray's death here."""
        self._check_others()
        self._check_ray()

    def _check_ray(self) -> None:
        if self.ray and self.ray.poll() is not None:
            lines = last_lines(self.attempt.ray_log(self.rank))
            raise LaunchError(f"Ray ended on node {self.rank} with exit code {self.ray.returncode}:\n{lines}")

    def _check_others(self) -> None:
        why = self.meeting.stopped()
        if why is not None:
            raise Stopped(128 + signal.SIGTERM, why)
        if self.launch.attended and self.meeting.silence("launcher") > self.launch.silence:
            raise Stopped(128 + signal.SIGHUP, f"the launcher was silent for {self.launch.silence:g} s")
        others = range(1, self.launch.nodes) if self.rank == 0 else (0,)
        for rank in others:
            self._check_other(rank)

    def _check_other(self, rank: int) -> None:
        ended = self.meeting.ended(rank)
        if ended is not None and rank == 0:
            raise HeadEnded
        if ended is None and self.meeting.silence(str(rank)) > self.launch.silence:
            ended = Ended(LaunchError.code, f"no sign of life for {self.launch.silence:g} s")
        if ended is not None:
            why = ended.why or f"it ended with exit code {ended.code} before the command did"
            raise LaunchError(
                f"node {rank} failed: {why}\nits last lines:\n{last_lines(self.attempt.log(rank))}"
            )

    def _start_head(self) -> str:
        plan = self.launch.ray
        assert plan is not None
        self._bring_up(plan, None)
        until = time.monotonic() + plan.ready_within
        for rank in range(1, self.launch.nodes):
            wait(partial(self._joined, rank), awaited=f"node {rank} to join Ray",
                 seconds=until - time.monotonic(), check=self.check)  # fmt: skip
        where = rays.address(plan)
        self.tell(f"Ray is ready at {where}: {self.launch.nodes} node(s)")
        self.events.mark("ray ready")
        return where

    def _joined(self, rank: int) -> bool | None:
        return True if self.meeting.joined(rank) else None

    def _bring_up(self, plan: RayPlan, head: str | None) -> None:
        """Starts Ray here and waits until this node is registered with the head, which may be this one.

        Ray's own limit of 30 s is fixed and too short for a busy machine, so every node has two tries. A
        worker that comes before the head is registered gives up after 10 s: the address is published late.
        """
        until = time.monotonic() + plan.ready_within
        log = self.attempt.ray_log(self.rank)
        for tries in (1, 2):
            self.ray = rays.start(plan, head, log, self.env())
            if self._wait(partial(rays.up, self.ray, log), f"Ray on node {self.rank}", until):
                self.events.mark("ray started", tries=tries)
                break
            if tries == 2:
                self._check_ray()
            self.tell("Ray gave up starting; once more")
            process.end_group(self.ray)
            if plan.temp_dir:
                rays.clear(Path(plan.temp_dir), None)
        if not head:
            self.meeting.publish_head(rays.address(plan))

    def _wait(self, probe: Callable[[], bool | None], awaited: str, until: float) -> bool:
        return wait(probe, awaited=awaited, seconds=until - time.monotonic(), check=self._check_others)

    def _start_command(self, env: dict[str, str]) -> process.Child[bytes]:
        program = shutil.which(self.launch.command[0], path=env.get("PATH"))
        if program is None and "/" not in self.launch.command[0]:
            raise LaunchError(f"the image has no `{self.launch.command[0]}` on its PATH")
        words = [program or self.launch.command[0], *self.launch.command[1:]]
        log = self.attempt.log(0)
        return process.start(words, what="run the command", log=log, env=env, cwd=self.launch.workdir)

    def _command_ended(self) -> int | None:
        assert self.command is not None
        code = self.command.poll()
        return None if code is None else (128 - code if code < 0 else code)

    def clear(self, keep_logs: bool) -> None:
        """Ends all that this node has started, and removes Ray's temporary folder; its logs may stay."""
        for sign in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(sign, signal.SIG_IGN)  # what follows is short and must be finished
        if self.command and self.command.poll() is None:
            self.tell(f"ending the command, which has {self.launch.grace:g} s")
            process.end_group(self.command, self.launch.grace)
        if self.ray:  # at once: it keeps nothing that anyone needs, and drains for seconds if asked politely
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.ray.pid, signal.SIGKILL)
        family.end(grace=3.0)
        if self.launch.ray and self.launch.ray.temp_dir:
            logs = self.attempt.ray_logs(self.rank) if keep_logs else None
            rays.clear(Path(self.launch.ray.temp_dir), logs)
        self.events.mark("node ended")


class HeadEnded(BaseException):
    """The head has ended, and with it the job."""


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """TERM, INT and HUP raise Stopped in the main thread, wherever it is; only the first one does.

    A second, such as the engine's after the launcher's word, would break off the ending itself.
    """
    Stopped.asked = False

    def stop(number: int, frame: object) -> None:
        if Stopped.asked:
            return
        raise Stopped(128 + number, f"{signal.Signals(number).name} came")

    for sign in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(sign, stop)
    yield


def _recorded(facts: Facts) -> bytes:
    """The facts as JSON; of the environment the names alone, for its values may be secrets."""
    return json.format(json.encode(replace(facts, env=dict.fromkeys(sorted(facts.env), ""))))
