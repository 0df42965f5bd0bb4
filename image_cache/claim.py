"""Who does a piece of work now, agreed on through a shared file system alone.

A claim on a subject is a folder of numbered files; the highest number holds it. A holder makes its file by
exclusive creation (O_EXCL is honoured by local file systems, NFS since version 3, and Lustre, where flock
is not), rewrites it while it lives, and at the end writes into it that it is released. A released or dead
number is never taken over itself: the next holder makes the next number. So there is no moment at which two
can mistake each other's file for a dead one's, which removing and making again one name would have.

Dead is: on this very machine (same boot, same process namespace) a process that is gone, or whose number
another process has now; anywhere else a file that did not change for SILENCE seconds while we watched it by
our own clock. No two clocks are compared, since those of nodes and file servers differ.

A holder that was stopped for long can wake up beside its successor. Both then do the same work, which must
be harmless: a put into the store is atomic and idempotent. The claim saves work; it does not guard data.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

BEAT = 5.0  # seconds between signs of life
SILENCE = 45.0  # seconds without one: NFS may show a file as it was 30 s ago


class Owner(Struct, frozen=True, kw_only=True):
    """Who holds a claim. machine: boot id and process namespace, within which `pid` means one process.
    An empty host: a holder that has not written its name yet."""

    host: str
    pid: int
    started: int
    machine: str
    beat: int = 0
    released: bool = False

    @classmethod
    def here(cls) -> Owner:
        pid = os.getpid()
        return cls(host=os.uname().nodename, pid=pid, started=_started(pid) or 0, machine=_machine())

    @property
    def gone(self) -> bool:
        """Surely dead. False where that cannot be seen from here."""
        return self.machine == _machine() and _started(self.pid) != self.started


class Claim:
    """A claim on one subject; `folder` is its own. Each waiter or holder has its own object."""

    def __init__(self, folder: Path, silence: float = SILENCE, beat: float = BEAT) -> None:
        self.folder, self.silence, self.beat = folder, silence, beat
        self._seen: tuple[int, bytes, float] = (0, b"", 0.0)

    def holder(self) -> Owner | None:
        """Who holds it now; None when nobody living does. To be asked again and again by one who waits."""
        return self._look()[1]

    def _look(self) -> tuple[int, Owner | None]:
        """The highest number, and who holds the claim by it."""
        number = self._highest()
        if number == 0:
            return 0, None
        raw = self._read(number)
        if (number, raw) != self._seen[:2]:
            self._seen = (number, raw, time.monotonic())
        silent = time.monotonic() - self._seen[2] > self.silence
        # Undecoded: made a moment ago and not written yet, or its writer died in between.
        owner = _decoded(raw) or Owner(host="", pid=0, started=0, machine="")
        return number, None if owner.released or owner.gone or silent else owner

    @contextlib.contextmanager
    def taken(self) -> Iterator[bool]:
        """Takes the claim if nobody holds it: yields True and keeps it alive to the block's end, or False."""
        number = self._take()
        if number is None:
            yield False
            return
        ended = threading.Event()
        owner = Owner.here()
        keeper = threading.Thread(target=self._keep, args=(number, owner, ended), daemon=True)
        keeper.start()
        try:
            yield True
        finally:
            ended.set()
            keeper.join()
            with contextlib.suppress(OSError):  # a full disk must not hide why the block failed
                self._write(number, msgspec.structs.replace(owner, released=True))

    def _take(self) -> int | None:
        # The number is the one after that which was seen free: any other may be somebody's since.
        seen, owner = self._look()
        if owner is not None:
            return None
        number = seen + 1
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with self._file(number).open("xb") as file:
                file.write(_encoded(Owner.here()))
        except (
            FileExistsError,
            FileNotFoundError,
        ):  # somebody was faster; or `gc` cleared an old folder away
            return None
        if self._highest() != number:  # we were slow: numbers up to ours were used and cleared away
            self._file(number).unlink(missing_ok=True)
            return None
        for old in range(max(1, number - 8), number):  # all but the highest say nothing any more
            self._file(old).unlink(missing_ok=True)
        return number

    def _keep(self, number: int, owner: Owner, ended: threading.Event) -> None:
        count = 0
        while not ended.wait(self.beat):
            count += 1
            with contextlib.suppress(OSError):
                self._write(number, msgspec.structs.replace(owner, beat=count))

    def _write(self, number: int, owner: Owner) -> None:
        # In place and without truncation: readers see the old or the new, and a file that a successor cleared
        # away is not made again.
        with self._file(number).open("r+b") as file:
            file.write(_encoded(owner))

    def _highest(self) -> int:
        try:
            names = [path.name for path in self.folder.iterdir()]
        except FileNotFoundError:
            return 0
        return max((int(name) for name in names if name.isdigit()), default=0)

    def _read(self, number: int) -> bytes:
        try:
            return self._file(number).read_bytes()
        except FileNotFoundError:
            return b""

    def _file(self, number: int) -> Path:
        return self.folder / str(number)


def _encoded(owner: Owner) -> bytes:
    return msgspec.json.encode(owner).ljust(512)  # of one length, so that nothing of a longer one remains


def _decoded(raw: bytes) -> Owner | None:
    try:
        return msgspec.json.decode(raw, type=Owner)
    except msgspec.DecodeError:
        return None


def _machine() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {Path('/proc/self/ns/pid').readlink()}"


def _started(pid: int) -> int | None:
    """When a process began, in clock ticks since boot; None when it is gone or only waits to be reaped."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if words[0] in "ZX" else int(words[19])
