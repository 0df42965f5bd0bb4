"""A run's log as it grows, from attempt to attempt, until nothing more can come."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from msgspec import Struct

from kit import say
from kit.errors import NotFoundError, UnknownNameError, UsageError
from runner import run_files, watching
from runner.meeting import wait
from runner.run_files import RunFiles
from runner.run_states import Now
from runner.runs import RunFolder

CHUNK = 1 << 20
ASK = 30.0  # seconds between two questions to Slurm while the run's files tell nothing new
LOOK = 5.0  # the same without Slurm


class Tail:
    """Copies what a growing file has got since the last time. It need not be there yet."""

    def __init__(self, path: Path, out: BinaryIO) -> None:
        self.path, self.out, self.at, self.ended_line = path, out, 0, True

    def copy(self) -> bool:
        """All that is new; whether there was anything. The file is opened anew, so that NFS looks again."""
        before = self.at
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), self.path.open("rb") as file:
            file.seek(self.at)
            while data := file.read(CHUNK):
                self.out.write(data)
                self.at += len(data)
                self.ended_line = data.endswith(b"\n")
        if self.at == before:
            return False
        self.out.flush()
        return True

    def end(self) -> None:
        """What is told next begins on a line of its own."""
        if not self.ended_line:
            self.out.write(b"\n")
            self.out.flush()


def rank_of(files: RunFiles, node: str, number: int | None) -> int:
    """The rank that a number or a host's name means; UsageError or UnknownNameError for none."""
    hosts = next((each.hosts for each in reversed(files.tries) if number in (None, each.number)), ())
    if node.isdecimal():
        if int(node) >= files.nodes:
            raise UsageError(
                f"{files.folder.root.name} has no node {node}: expected 0 to {files.nodes - 1}",
                f"runner status {files.folder.run_id}",
            )
        return int(node)
    short = [each.partition(".")[0] for each in hosts]
    if node.partition(".")[0] in short:
        return short.index(node.partition(".")[0])
    if not hosts:
        raise UsageError(f"found the node {node!r}, expected a number from 0 to {files.nodes - 1}")
    from kit.suggest import unknown

    raise unknown("node", node, hosts, files.folder.root.name)


def show(now: Now, node: str, number: int | None, service: str | None = None) -> None:
    """The log of one attempt, or of a service in it, as far as it goes."""
    tail = Tail(log_of(now, node, number, service), sys.stdout.buffer)
    tail.copy()
    tail.end()


def log_of(now: Now, node: str, number: int | None, service: str | None = None) -> Path:
    """The log's path; NotFoundError or UnknownNameError where there is none."""
    files = now.files
    rank = rank_of(files, node, number)
    numbers = [each.number for each in files.tries]
    if number is not None:
        demand_attempt(files, number)
    if not numbers:
        raise watching.ended_error(now, "has made no attempt, so there is no log")
    attempt = files.folder.attempt(number or numbers[-1])
    path = attempt.service_log(service, rank) if service else attempt.log(rank)
    if service and not path.exists():
        others = sorted(each.stem.removeprefix("service-") for each in attempt.folder.glob("service-*.log"))
        raise NotFoundError(
            f"node {rank} has no log of a service {service}; there is {', '.join(others) or 'none of any'}",
            f"runner logs {files.folder.run_id} --service NAME --node NUMBER",
        )
    if not path.exists():
        what = "was removed" if now.over else "is not there yet"
        raise NotFoundError(f"the log {path} {what}", f"runner status {files.folder.run_id}")
    return path


def demand_attempt(files: RunFiles, number: int) -> None:
    """UnknownNameError for an attempt that there was not."""
    numbers = [each.number for each in files.tries]
    if number not in numbers:
        from kit.suggest import unknown

        error = unknown("attempt", str(number), map(str, numbers), files.folder.root.name)
        raise UnknownNameError(error.message, f"runner status {files.folder.run_id}")


class LogFile(Struct, frozen=True, kw_only=True):
    """A node's log."""

    attempt: int
    node: int
    path: str
    size: int


def logs(now: Now) -> Iterator[LogFile]:
    """The nodes' logs of all attempts, those that are there."""
    for each in now.files.tries:
        for rank in range(now.files.nodes):
            path = now.files.folder.attempt(each.number).log(rank)
            if path.exists():
                yield LogFile(attempt=each.number, node=rank, path=str(path), size=path.stat().st_size)


class Follow:
    """One run, followed. `state`: asks for its state, Slurm too. `between`: what is done when an attempt has
    ended and the next has begun."""

    def __init__(
        self, folder: RunFolder, node: str, state: Callable[[], Now], out: BinaryIO,
        between: Callable[[], None] | None = None,
    ) -> None:  # fmt: skip
        self.folder, self.node, self.state, self.out = folder, node, state, out
        self.between = between or _nothing
        self.now = state()
        self.number = self._newest()
        self.tail = self._tail()
        self._looked = time.monotonic()

    def run(self) -> None:
        """Until the run has ended; then its whole log was copied."""
        if not self.number and not self.now.over:
            told = f"{self.now.state}: {self.now.why}" if self.now.why else self.now.state
            say.say(f"{self.folder.root.name} has made no attempt yet; it is {told}")
        while wait(self._turn, awaited="the log", seconds=float("inf"), check=_nothing) != "over":
            pass
        self.tail.copy()
        self.tail.end()

    def _turn(self) -> str | None:
        """What happened: the log grew, another attempt began, or all is over."""
        over = self._is_over()  # before the log is read: what was written before the end is read after it
        if self.tail.copy():
            self._looked = time.monotonic()
            return "grew"
        if self._newest() > self.number:
            self._go_on()
            return "next"
        return "over" if over else None

    def _go_on(self) -> None:
        self.tail.end()
        first = not self.number
        self.number += 1
        self.tail = self._tail()
        hosts = run_files.read_try(self.folder.attempt(self.number)).hosts
        if not first:
            say.say(f"attempt {self.number}" + (f" on {' '.join(hosts)}" if hosts else ""))
            self.between()

    def _tail(self) -> Tail:
        rank = rank_of(self.now.files, self.node, self.number) if self.number else 0
        if not self.number:
            return Tail(self.folder.root / "attempt-0", self.out)
        return Tail(self.folder.attempt(self.number).log(rank), self.out)

    def _newest(self) -> int:
        attempts = self.folder.attempts()
        return int(attempts[-1].folder.name.rpartition("-")[2]) if attempts else 0

    def _is_over(self) -> bool:
        if self.now.over:
            return True
        if self.now.files.local:
            return self.folder.result.exists() or self._asked(LOOK)
        if self.folder.finished.exists() and self.number == self._newest() and self._closed():
            return True
        return self._asked(ASK)

    def _closed(self) -> bool:
        return bool(self.number) and run_files.read_try(self.folder.attempt(self.number)).code is not None

    def _asked(self, every: float) -> bool:
        """Whether the run is over by all that is known, asked for when nothing was heard for a while."""
        if time.monotonic() - self._looked < every:
            return False
        self._looked = time.monotonic()
        if self.number and not self.now.files.local and self._lives():
            return False
        self.now = self.state()
        return self.now.over

    def _lives(self) -> bool:
        """Whether the attempt itself gives signs of life, so that nobody else needs to be asked."""
        beat = run_files.read_try(self.folder.attempt(self.number)).beat
        return beat is not None and time.time() - beat < ASK and not self._closed()


def _nothing() -> None:
    """Nothing can make the waiting pointless but its end."""
