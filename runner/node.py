"""What runs on every node of a job, inside its container: facts, fixes, Ray, services, the command, the end.

Node 0 is the head: its command's exit code is the job's. The others end when it ends. Whatever ends a node,
it ends all that it started, and nothing else.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from msgspec.structs import replace

from kit import files, say
from kit.errors import LaunchError, SlipworksError
from runner import addresses, ends, family, fixing, limits, ports, prerequisites, rays, variables
from runner import facts as facts_
from runner import launch as launch_
from runner.artifacts import Artifacts
from runner.attaching import Door, address
from runner.egress import plan as egress
from runner.egress.outlet import Outlet
from runner.ends import CommandFailed, Died, HeadEnded, HeadLost, Lost, Stopped
from runner.events import Events
from runner.facts import Facts
from runner.launch import Launch, RayPlan
from runner.leftovers import Leftovers
from runner.meeting import Ended, Meeting, Pulse, wait
from runner.peers import Peers
from runner.private import Private
from runner.program import Program
from runner.rays import Ray
from runner.runs import Attempt, RunFolder
from runner.sandboxes import in_attempt as sandboxes
from runner.services import Services
from runner.steps import KILLED, Steps

HEED = 2.0  # seconds for a stop to be heard that may be why something died
COPY = 120.0  # seconds for the artifacts once the command has ended
LAST_COPY = 5.0  # the same on a node that must end
ALONE = 5.0  # seconds at most that a command has to end once another node is lost


def run(root: Path, attempt: int, rank: int) -> int:
    """Is node `rank` of the run in `root`, until the job ends. Returns the node's exit code."""
    family.adopt_orphans()
    folder = RunFolder(root)
    node = Node(folder, folder.attempt(attempt), rank, launch_.read(folder.launch))
    with Pulse(node.meeting, str(rank)), ends.signals():
        ended = Ended(LaunchError.code, "it broke off")
        try:
            ended = _lived(node)
        except SlipworksError as failure:
            ended = Ended(
                failure.code, failure.message, command=isinstance(failure, CommandFailed),
                hopeless=node.hopeless, headless=isinstance(failure, HeadLost),
            )  # fmt: skip
            raise
        except Exception as unforeseen:
            ended = Ended(1, f"{type(unforeseen).__name__}: {unforeseen}")
            raise
        finally:
            ends.deaf()
            node.meeting.end(rank, ended)
            node.clear(keep_logs=ended.code != 0)
    return ended.code


def _lived(node: Node) -> Ended:
    """How the node ended, unless it failed."""
    try:
        return Ended(node.live())
    except HeadEnded:
        return Ended(0)
    except Stopped as stop:
        why = stop.why + (", after the warning of the time limit" if node.meeting.warned() else "")
        node.tell(f"ending: {why}")
        return Ended(stop.code, why)


class Node:
    """One node and what it has started."""

    def __init__(self, folder: RunFolder, attempt: Attempt, rank: int, launch: Launch) -> None:
        self.folder, self.attempt, self.rank, self.launch = folder, attempt, rank, launch
        self.meeting = Meeting(attempt.meeting)
        self.events = Events(attempt.events(str(rank)), f"node {rank}")
        self.peers = Peers(attempt, self.meeting, rank, launch)
        self.services = Services(launch.services, attempt, rank, launch.nodes)
        kept = launch.artifacts if rank == 0 else ()
        self.artifacts = Artifacts(kept, folder.artifacts, self.tell, attempt.number)
        self.outlet = Outlet(attempt, rank, self.tell)
        self.ray: Ray | None = None
        self.command: Program | None = None
        self.steps: Steps | None = None
        self.warned = False
        self.hopeless = False
        self.grace = launch.grace
        self.env: dict[str, str] = {}
        self.leftovers = Leftovers()
        self.private = Private()
        self.events.mark("node started")

    def tell(self, message: str) -> None:
        say.say(f"node {self.rank}: {message}")

    def live(self) -> int:
        """The node's life up to its end, which `clear` is. Returns the command's exit code, 0 on a worker."""
        with ports.held(f"{self.launch.run_id}-{self.rank}") as base:
            try:
                facts = self.look(base)
                self.env |= sandboxes.variables(self.attempt, self.launch, self.env, self.check)
                with Door(address(self.launch.run_id, self.rank), lambda: self.env, self.launch.workdir):
                    return self.lead(facts) if self.rank == 0 else self.follow(facts)
            except SlipworksError as failure:
                if isinstance(failure, Died):
                    self.heed_stop()
                if isinstance(failure, Lost):
                    self.grace = min(self.grace, ALONE)
                if isinstance(failure, CommandFailed):
                    self._conclude(failure.code)
                else:
                    self._despair(failure)
                raise

    def look(self, port_base: int) -> Facts:
        """Gathers the facts, lets the fixes change the launch, and checks what a start needs."""
        step = variables.step(self.attempt, self.rank)
        suffix = self.launch.node_suffix
        facts = facts_.gather(self.rank, self.launch.nodes, port_base, step=step, suffix=suffix)
        files.write(self.attempt.facts(self.rank), facts_.recorded(facts), mode=0o600)
        plan = self.launch
        if plan.ray and self.folder.token.exists():
            plan = replace(plan, ray=replace(plan.ray, token_file=str(self.folder.token)))
        self.launch, applied = fixing.fixed(facts, plan)
        for fix in applied:
            self.tell(f"fix {fix.name}: {fix.reason}")
        for warning in fixing.warnings(facts, self.launch):
            self.tell(f"warning of {warning.name}: {warning.reason}")
        self.peers.launch = self.launch
        self.events.mark("fixes applied", fixes=[fix.name for fix in applied])
        limits.take(self.launch.limits)
        self.env = variables.of_node(facts, self.launch, self.folder)
        self.env |= self.private.netrc(facts, self.launch, self.env)
        command_env = variables.of_command(self.env, self.launch)
        prerequisites.check(facts, self.launch, command_env, variables.secrets(self.folder))
        self.launch = self.outlet.open(self.launch, self.env, facts, self.private, self.services.here)
        return facts

    def lead(self, facts: Facts) -> int:
        """The head: brings up Ray and services, runs the command, returns its exit code."""
        self.artifacts.start()  # of a bring-up that fails, too
        here = addresses.own(facts, self.launch)
        if self.launch.ray:
            self.env["RAY_ADDRESS"] = self._lead_ray(self.launch.ray)
        elif self.launch.everywhere:
            master = f"{here}:{(facts.port_base or 0) + ports.MASTER}"
            self.meeting.publish_head(master)
            self._set_master(master)
        self._serve(here)
        # In a shared folder a new file may be another run's.
        own = self.launch.checkpoints if not self.launch.checkpoints_shared else None
        self.steps = Steps(self.attempt.log(0), Path(own) if own else None)
        code = self._run_command()
        if code in KILLED:
            self.heed_stop()
        self._conclude(code)
        self.artifacts.finish(COPY)
        return code

    def follow(self, facts: Facts) -> int:
        """A worker: joins the head and stays until that has ended, which raises HeadEnded."""
        plan = self.launch.ray
        within = self.peers.limit(plan.ready_within if plan else self.peers.within)
        head = wait(self.meeting.head, awaited="the head's address", seconds=within, check=self.check)
        if plan:
            self._bring_up(plan, head)
            self.meeting.join(self.rank)
            self.events.mark("joined")
            self.env["RAY_ADDRESS"] = head
        else:
            self._set_master(head)
        self._serve(addresses.own(facts, self.launch))
        if self.launch.everywhere and (code := self._run_command()):
            raise CommandFailed(f"the command ended there with exit code {code}")
        wait(lambda: None, awaited="the head's end", seconds=float("inf"), check=self.check)
        return 0

    def check(self) -> None:
        """Raises what must end this node; passes on the warning of the time limit."""
        self.peers.check()
        if self.ray:
            self.ray.check()
        self.services.check()
        self.outlet.check()
        if not self.warned and self.meeting.warned() and self.command and self.command.code() is None:
            self.warned = self.command.pass_on(signal.SIGUSR2) > 0
            if self.warned:
                self.tell("the time limit is near: SIGUSR2 to the command")
                self.events.mark("warning passed on")

    def heed_stop(self) -> None:
        """Raises Stopped if this node is asked to end just now; returns after HEED seconds."""
        with contextlib.suppress(LaunchError):
            wait(lambda: None, awaited="a stop", seconds=HEED, check=self.peers.check_stop)

    def _conclude(self, code: int) -> None:
        """Says whether another attempt may run, once the command has ended."""
        word = self.steps.verdict(code) if self.steps else None
        if word is None or self.folder.finished.exists():
            return
        files.write(self.folder.finished, f"{word}\n")
        if code:
            self.tell("the command failed before its first step: it is not tried again")

    def _despair(self, failure: SlipworksError) -> None:
        """Says that no other attempt need run, where it could not begin either."""
        if self.command or not ends.hopeless(failure) or self.meeting.stopped() is not None:
            return
        self.hopeless = True
        if self.rank == 0 and not self.folder.finished.exists():
            why = failure.message.partition("\n")[0]
            files.write(self.folder.finished, f"it could not begin: {why}\n")
            self.tell("another attempt could not begin either: it is not tried again")

    def _set_master(self, master: str) -> None:
        host, _, port = master.rpartition(":")
        self.env |= {"MASTER_ADDR": host, "MASTER_PORT": port}

    def _lead_ray(self, plan: RayPlan) -> str:
        began = time.monotonic()
        self._bring_up(plan, None)
        where = rays.address(plan)
        self.meeting.publish_head(where)
        self.peers.await_all(
            self.meeting.joined, "join Ray", plan.ready_within - (time.monotonic() - began), self.check
        )
        self.tell(f"Ray is ready at {where}: {self.launch.nodes} node(s)")
        self.events.mark("ray ready")
        return where

    def _bring_up(self, plan: RayPlan, head: str | None) -> None:
        self.ray = Ray(plan, self.rank, self.attempt.ray_log(self.rank), self.env)
        until = time.monotonic() + plan.ready_within
        tries = self.ray.bring_up(head, until, self.peers.check, self.tell)
        self.events.mark("ray started", tries=tries)

    def _serve(self, here: str) -> None:
        """Brings up this node's services; the head waits for all nodes'. `here`: this node's address.
        Before them the way out must be open, which was begun before Ray."""
        self.outlet.wait_open(self.check)
        if not self.launch.services:
            return
        self.services.publish(here, self.meeting)
        self.services.start(self.env, self.launch)
        self.services.wait_ready(here, self.check)
        self.events.mark("services ready")
        if self.rank:
            self.meeting.make_ready(self.rank)
        else:
            longest = max(each.ready_within for each in self.launch.services)
            self.peers.await_all(
                self.meeting.ready, "start its services", self.peers.within + longest, self.check
            )
        if self.rank == 0 or self.launch.everywhere:
            self.env |= self.services.addresses(self.meeting, self.peers.within, self.check)

    def _run_command(self) -> int:
        self.tell("running the command")
        self.events.mark("command started")
        env = variables.of_command(self.env, self.launch)
        log = self.attempt.log(self.rank)
        self.command = Program(
            egress.of_command(self.launch), what="run the command", log=log, env=env, cwd=self.launch.workdir
        )
        code = wait(
            self.command.code, awaited="the command", seconds=float("inf"), check=self.check,
            wake=self.command.wake,
        )  # fmt: skip
        self.events.mark("command ended", code=code)
        return code

    def clear(self, keep_logs: bool) -> None:
        """Ends all that this node has started, and removes what it leaves; Ray's logs may stay."""
        self.leftovers.note(family.descendants(os.getpid()))
        if self.command and self.command.code() is None:
            self.tell(f"ending the command, which has {self.grace:g} s")
            self.command.end(self.grace)
        self.outlet.close()
        if self.ray:
            self.ray.kill()
        family.end(grace=3.0)
        self.leftovers.remove()
        self.private.remove()
        self.artifacts.finish(LAST_COPY)
        if self.launch.ray and self.launch.ray.temp_dir:
            logs = self.attempt.ray_logs(self.rank) if keep_logs else None
            rays.clear(Path(self.launch.ray.temp_dir), logs)
        self.events.mark("node ended")
