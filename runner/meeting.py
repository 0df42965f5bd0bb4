"""How the nodes of a job find and watch each other: small files in a folder that all of them see.

No node asks a controller, and no clock is compared with another machine's. Files, each put in place whole:
    head         rank 0: the address at which Ray, or the command of node 0, can be reached
    joined-<k>   node k has joined Ray
    ready-<k>    the services of node k are ready
    at-<name>    the address of the node on which a service runs alone
    alive-<who>  a counter that grows while the writer lives; silence is measured on the reader's own clock
    fetching-<k> the image is on its way to node k: it gives signs of life, but has not begun
    ended-<k>    node k has ended, with its exit code and the reason; ended-0 ends the job
    stop         all nodes are asked to end
    warning      the time limit is near
    reported     a node has told Slurm that node 0 is lost
The folder lies on a file system that many nodes share: a reader lists it, which also makes NFS look anew, and
opens only what is there.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from msgspec import DecodeError, Struct, ValidationError, json

from kit import files, say
from kit.errors import LaunchError

T = TypeVar("T")
BEAT = 1.0  # seconds between signs of life
TURN = 0.05  # seconds between two looks: what an event may come late
SLOWEST = 1.0  # seconds: what it may come late once the waiting is a hundred times as long
FRESH = 0.02  # seconds for which one listing of the folder serves; of a big job longer, see EACH
EACH = 0.0005  # seconds for which it serves by each file: hundreds of nodes list for the same file system
STALL = 5.0  # seconds: a reader that could not look for longer has been stalled itself


class Ended(Struct, frozen=True, omit_defaults=True):
    """How a node ended. `why` is empty for a good end. `command`: its command failed, not the node.
    `hopeless`: it could not begin, and would not in another attempt. `headless`: it lost node 0, on whose
    machine the batch script was."""

    code: int
    why: str = ""
    command: bool = False
    hopeless: bool = False
    headless: bool = False


class Late(LaunchError):
    """What was awaited did not come in time."""


class _Heard(Struct):
    """The latest sign of life, when it was last looked for, and the seconds of silence seen since it came."""

    count: bytes
    looked: float
    silent: float = 0.0


class Meeting:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._heard: dict[str, _Heard] = {}
        self._listed: tuple[float, frozenset[str]] = (float("-inf"), frozenset())

    def open(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)

    def publish_head(self, address: str) -> None:
        self._put("head", address)

    def head(self) -> str | None:
        found = self._read("head")
        return found.decode() if found else None

    def join(self, rank: int) -> None:
        self._put(f"joined-{rank}", "")

    def joined(self, rank: int) -> bool:
        return self._has(f"joined-{rank}")

    def make_ready(self, rank: int) -> None:
        self._put(f"ready-{rank}", "")

    def ready(self, rank: int) -> bool:
        return self._has(f"ready-{rank}")

    def publish_service(self, name: str, address: str) -> None:
        self._put(f"at-{name}", address)

    def service(self, name: str) -> str | None:
        """The address of the node on which a service runs."""
        found = self._read(f"at-{name}")
        return found.decode() if found else None

    def fetching(self, rank: int) -> bool:
        """Whether a node still gets the image."""
        return self._has(f"fetching-{rank}")

    def end(self, rank: int, ended: Ended) -> None:
        """Says how a node ended; what was said first stays."""
        if self.ended(rank) is None:
            self._put(f"ended-{rank}", json.encode(ended))

    def ended(self, rank: int) -> Ended | None:
        found = self._read(f"ended-{rank}")
        try:
            return json.decode(found, type=Ended) if found else None
        except (DecodeError, ValidationError):
            return Ended(LaunchError.code, "its end could not be read")

    def stop(self, why: str) -> None:
        self._put("stop", why)

    def stopped(self) -> str | None:
        found = self._read("stop")
        return None if found is None else found.decode("utf-8", "replace").strip()

    def warned(self) -> bool:
        """Whether Slurm has said that the time limit is near."""
        return self._has("warning")

    def lives(self, who: str) -> bool:
        """Whether `who` has ever given a sign of life."""
        return self._has(f"alive-{who}")

    def silence(self, who: str) -> float:
        """Seconds since the last new sign of life of `who`; 0 before its first.

        Time in which this reader could not look, because the file system or its machine stood still, counts
        as STALL seconds at most: the writer may have stood still with it.
        """
        now = time.monotonic()
        heard = self._heard.get(who)
        if heard is not None and now - heard.looked < BEAT / 2:
            return heard.silent + now - heard.looked
        count = self._read(f"alive-{who}")
        if count is None:
            return 0.0
        if heard is None or heard.count != count:
            self._heard[who] = _Heard(count, now)
            return 0.0
        heard.silent += min(now - heard.looked, STALL)
        heard.looked = now
        return heard.silent

    def _has(self, name: str) -> bool:
        now = time.monotonic()
        if now - self._listed[0] > max(FRESH, EACH * len(self._listed[1])):
            with contextlib.suppress(OSError):
                self._listed = (now, frozenset(entry.name for entry in os.scandir(self.folder)))
        return name in self._listed[1]

    def _read(self, name: str) -> bytes | None:
        if not self._has(name):
            return None
        try:
            return (self.folder / name).read_bytes()
        except OSError:
            return None

    def _put(self, name: str, data: bytes | str) -> None:
        files.write(self.folder / name, data)
        self._listed = (float("-inf"), self._listed[1])


class Pulse:
    """Gives signs of life from a thread, from `with` to its end."""

    def __init__(self, meeting: Meeting, who: str) -> None:
        self.path = meeting.folder / f"alive-{who}"
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="pulse", daemon=True)

    def __enter__(self) -> Pulse:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _beat(self) -> None:
        count = 0
        while True:
            count += 1
            try:  # written over, all of one length: never half there, and no file is made for each beat
                file = os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o644)
                try:
                    os.write(file, b"%012d" % count)
                finally:
                    os.close(file)
            except OSError as bad:
                say.once(f"cannot give signs of life in {self.path.parent}: {bad}")
            if self._done.wait(BEAT):
                return


class Limit:
    """Seconds for waiting, perhaps for several things in turn; those in which `held` is true do not count."""

    def __init__(self, seconds: float, held: Callable[[], bool] = lambda: False) -> None:
        self.seconds = seconds
        self._held = held
        self._looked = time.monotonic()
        self._counted = 0.0

    def over(self) -> bool:
        now = time.monotonic()
        if not self._held():
            self._counted += now - self._looked
        self._looked = now
        return self._counted > self.seconds


def wait(
    probe: Callable[[], T | None],
    *,
    awaited: str,
    seconds: float | Limit,
    check: Callable[[], None],
    wake: int | None = None,
) -> T:
    """What `probe` returns as soon as it is not None.

    Late after `seconds`; until then says what is awaited after 5, 10, 20 s (not if they are infinite).
    `check` is called each turn and raises when waiting has become pointless. Turns grow to a hundredth of the
    time waited, between TURN and SLOWEST. `wake`: a descriptor that becomes readable when it happens.
    """
    began = time.monotonic()
    limit = seconds if isinstance(seconds, Limit) else Limit(seconds)
    tell = 5.0 if limit.seconds < float("inf") else limit.seconds
    turn = select.poll()
    if wake is not None:
        turn.register(wake, select.POLLIN)
    while True:
        found = probe()
        if found is not None:
            return found
        check()
        waited = time.monotonic() - began
        if limit.over():
            raise Late(f"waited {limit.seconds:.3g} s for {awaited}")
        if waited > tell:
            say.say(f"waiting for {awaited} ({waited:.0f} s)")
            tell *= 2
        turn.poll(1000 * min(SLOWEST, max(TURN, waited / 100)))
