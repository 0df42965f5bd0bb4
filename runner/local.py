"""A job on this machine, without Slurm: every node a container here, watched until the last has ended."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from kit import process
from kit.errors import LaunchError
from runner.events import Events
from runner.launch import Launch
from runner.meeting import TURN, Ended, Meeting, Pulse
from runner.runs import Attempt, last_lines

AFTER = 15.0  # seconds, over the command's grace, that a node gets to end what it started


def run(
    attempt: Attempt,
    launch: Launch,
    argvs: Sequence[Sequence[str]],
    show: Callable[[str], None],
    remove: Sequence[str] = (),
) -> int:
    """Starts one client a node and stays until all have ended; hands each line of node 0's log to `show`.

    `remove` is the engine's command that removes this run's containers, for when a client may have left one.

    Returns node 0's exit code, or 128 + the signal that ended this process. LaunchError where node 0 ended
    without a word of its own. TERM, INT and HUP end all nodes; a second one ends them at once.
    """
    meeting = Meeting(attempt.meeting)
    meeting.open()
    with _signals() as came, Pulse(meeting, "launcher"):
        nodes = Nodes(attempt, launch, meeting, came, show)
        try:
            for rank, argv in enumerate(argvs):
                nodes.start(rank, argv)
            code = nodes.watch_head()
        finally:
            nodes.end_rest()
            if nodes.unclean and remove:
                process.finish(remove, what="remove the containers")
    if came:
        return 128 + came[0]
    if nodes.silent_head:
        log = attempt.log(0)
        raise LaunchError(
            f"node 0 failed: {nodes.silent_head}; its last lines:\n{last_lines(log)}", f"less {log}"
        )
    return code


class Nodes:
    """The clients of a job's containers."""

    def __init__(
        self, attempt: Attempt, launch: Launch, meeting: Meeting, came: list[int], show: Callable[[str], None]
    ) -> None:
        self.attempt, self.launch, self.meeting, self.came = attempt, launch, meeting, came
        self.clients: list[process.Child[bytes]] = []
        self.events = Events(attempt.events("launcher"), "launcher")
        self.follower = Follower(attempt.log(0), show)
        self.asked: float | None = None
        self.silent_head: str | None = None
        self.unclean = (
            False  # a client was ended, or ended without its node's word: its container may be left
        )
        self._turn = threading.Event()

    def start(self, rank: int, argv: Sequence[str]) -> None:
        self.clients.append(process.start(argv, what=f"start node {rank}", log=self.attempt.log(rank)))
        self.events.mark("container started", rank=rank)

    def watch_head(self) -> int:
        """Until node 0's client has ended; returns its exit code."""
        head = self.clients[0]
        while head.poll() is None:
            self.turn()
        self.events.mark("head ended", code=head.returncode)
        if self.meeting.ended(0) is None:
            self.unclean = True
            self.silent_head = f"its container ended with exit code {head.returncode}"
            self.meeting.end(0, Ended(LaunchError.code, self.silent_head))
        return head.returncode

    def turn(self) -> None:
        """One look at everything."""
        self.follower.read()
        for rank, client in enumerate(self.clients[1:], 1):
            if client.poll() is not None and self.meeting.ended(rank) is None:
                self.unclean = True
                why = f"its container ended with exit code {client.returncode}"
                self.meeting.end(rank, Ended(LaunchError.code, why))
        if self.came and self.asked is None:
            self.ask(f"{signal.Signals(self.came[0]).name} came to the launcher")
        if self.asked is not None and (len(self.came) > 1 or time.monotonic() > self.asked):
            self.kill()
        self._turn.wait(TURN)

    def ask(self, why: str) -> None:
        """Asks all nodes to end: by a file, which no moment of a container's start can lose, and by TERM.

        No TERM for a node that has not begun: it would end the client alone, while the engine still makes the
        container. Such a node reads the file as soon as it runs.
        """
        self.asked = time.monotonic() + self.launch.grace + AFTER
        self.unclean = True
        self.meeting.stop(why)
        for rank, client in enumerate(self.clients):
            if client.poll() is None and self.meeting.lives(str(rank)):
                client.terminate()

    def end_rest(self) -> None:
        """Waits for the nodes that end because the head has; asks them, then kills them, if they do not."""
        if self.asked is None:
            if not self.meeting.ended(0):
                self.ask("the launcher failed")
            else:
                self.asked = time.monotonic() + AFTER
        while any(client.poll() is None for client in self.clients):
            self.turn()
        self.follower.read(last=True)
        self.events.mark("all nodes ended")

    def kill(self) -> None:
        self.unclean = True
        for client in self.clients:
            if client.poll() is None:
                process.end_group(client, grace=1.0)


class Follower:
    """Hands over the lines of a growing file."""

    def __init__(self, path: Path, show: Callable[[str], None]) -> None:
        self.path, self.show = path, show
        self.read_to = 0
        self.rest = b""

    def read(self, last: bool = False) -> None:
        """The whole lines since the last time; with `last`, also one without an end."""
        with contextlib.suppress(FileNotFoundError), self.path.open("rb") as file:
            file.seek(self.read_to)
            data = file.read()
            self.read_to += len(data)
            *lines, self.rest = (self.rest + data).split(b"\n")
            if last and self.rest:
                lines, self.rest = [*lines, self.rest], b""
            for line in lines:
                self.show(line.decode("utf-8", "replace").rstrip("\r"))


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Collects TERM, INT and HUP in a list until the end of `with`."""
    came: list[int] = []
    signs = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = {sign: signal.signal(sign, lambda number, frame: came.append(number)) for sign in signs}
    try:
        yield came
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)
