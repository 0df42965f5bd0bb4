"""How the nodes of a job find and watch each other: small files in a folder that all of them see.

No node asks a controller, and no clock is compared with another machine's. Files, each put in place whole:
    head         rank 0: the address at which Ray can be joined
    joined-<k>   node k has joined
    alive-<who>  a counter that grows while the writer lives; silence is measured on the reader's own clock
    ended-<k>    node k has ended, with its exit code and the reason; ended-0 ends the job
    stop         all nodes are asked to end
"""

from __future__ import annotations

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
TURN = 0.05  # seconds between two looks at a file: what an event may come late


class Ended(Struct, frozen=True):
    """How a node ended. `why` is empty for a good end."""

    code: int
    why: str = ""


class Meeting:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._heard: dict[str, tuple[bytes, float]] = {}

    def open(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)

    def publish_head(self, address: str) -> None:
        files.write(self.folder / "head", address)

    def head(self) -> str | None:
        found = _read(self.folder / "head")
        return found.decode() if found else None

    def join(self, rank: int) -> None:
        files.write(self.folder / f"joined-{rank}", "")

    def joined(self, rank: int) -> bool:
        return (self.folder / f"joined-{rank}").exists()

    def end(self, rank: int, ended: Ended) -> None:
        """Says how a node ended; what was said first stays."""
        if self.ended(rank) is None:
            files.write(self.folder / f"ended-{rank}", json.encode(ended))

    def ended(self, rank: int) -> Ended | None:
        found = _read(self.folder / f"ended-{rank}")
        try:
            return json.decode(found, type=Ended) if found else None
        except (DecodeError, ValidationError):
            return Ended(LaunchError.code, "its end could not be read")

    def stop(self, why: str) -> None:
        files.write(self.folder / "stop", why)

    def stopped(self) -> str | None:
        found = _read(self.folder / "stop")
        return None if found is None else found.decode()

    def lives(self, who: str) -> bool:
        """Whether `who` has ever given a sign of life."""
        return (self.folder / f"alive-{who}").exists()

    def silence(self, who: str) -> float:
        """Seconds since the last new sign of life of `who`; 0 before its first."""
        count = _read(self.folder / f"alive-{who}")
        if count is None:
            return 0.0
        now = time.monotonic()
        heard = self._heard.get(who)
        if heard is None or heard[0] != count:
            self._heard[who] = (count, now)
            return 0.0
        return now - heard[1]


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
            temporary = self.path.with_name(f".{self.path.name}.tmp")
            try:  # renamed so that no reader sees it empty; not fsynced: it is worth nothing after a crash
                temporary.write_text(str(count))
                temporary.replace(self.path)
            except OSError as bad:
                say.once(f"cannot give signs of life in {self.path.parent}: {bad}")
            if self._done.wait(BEAT):
                return


def wait(probe: Callable[[], T | None], *, awaited: str, seconds: float, check: Callable[[], None]) -> T:
    """What `probe` returns as soon as it is not None.

    LaunchError after `seconds`; until then says what is awaited after 5, 10, 20 s (not if they are infinite).
    `check` is called each turn and raises when waiting has become pointless.
    """
    began = time.monotonic()
    tell = 5.0 if seconds < float("inf") else seconds
    turn = threading.Event()
    while True:
        found = probe()
        if found is not None:
            return found
        check()
        waited = time.monotonic() - began
        if waited > seconds:
            raise LaunchError(f"waited {seconds:g} s for {awaited}")
        if waited > tell:
            say.say(f"waiting for {awaited} ({waited:.0f} s)")
            tell *= 2
        turn.wait(TURN)


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
