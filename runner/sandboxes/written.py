"""How much a sandbox of podman or docker has written, as its host counts it: by `du` on the folders that the
engine keeps for it, and by the open files that have no name any more."""

from __future__ import annotations

import stat
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from kit import process
from runner.sandboxes import processes
from runner.sandboxes.warden import Measure

LONGEST = 60.0  # seconds in which what a sandbox wrote must be counted


def counting(argv: Sequence[str], *, keep: Sequence[int] = ()) -> process.Result:
    """Runs a command that counts what a sandbox wrote. TimeoutError where it takes too long; by `timeout`,
    which ends what the command began, too."""
    began = time.monotonic()
    within = ["timeout", "--kill-after=5", f"{LONGEST:g}", *argv]
    done = process.run(within, what="measure a sandbox", check=False, timeout=LONGEST + 30, keep=keep)
    if done.code in (124, 137) and time.monotonic() - began >= LONGEST:
        raise TimeoutError(f"it was not counted in {LONGEST:g} s")
    return done


def written(told: dict[str, Any], pid: int, inside: Callable[[Sequence[str]], list[str]]) -> Measure:
    """Measures by what `inspect` told of a container. Storage without overlay (vfs) keeps a full copy of the
    image for each: there only what came beyond the first look counts.

    inside: makes a command one that may read what the sandbox wrote.
    """
    upper = str(((told.get("GraphDriver") or {}).get("Data") or {}).get("UpperDir") or "")
    volumes = [str(each.get("Source")) for each in told.get("Mounts") or [] if each.get("Type") == "volume"]
    hosts = str(Path(told.get("HostsPath") or "/none").parent)  # with other files that are writable inside
    own = Path(told.get("StaticDir") or "/none")
    namespace = processes.namespace(pid)
    before: list[int] = []

    def measure() -> int | None:
        layers = map(str, own.glob("overlay/*/upper"))  # what was written to the agent's layer
        there = [upper or f"/proc/{pid}/root/", *volumes, *layers, *([hosts] if hosts != "/" else [])]
        found = _du(inside, there)
        if found is None:
            return None
        if not upper:
            before.append(found)
            found = max(0, found - before[0])
        running = processes.belonging([namespace])[namespace] if namespace else []
        return found + nameless(each.pid for each in running)

    return measure


def nameless(pids: Iterable[int]) -> int:
    """Bytes of files on disk that were removed, and that one of these processes holds open: no `du` sees
    them."""
    seen: dict[tuple[int, int], int] = {}
    for pid in pids:
        try:
            opened = list(Path(f"/proc/{pid}/fd").iterdir())
        except OSError:
            continue
        for one in opened:
            try:
                about = one.stat()
                if (
                    about.st_nlink
                    or not stat.S_ISREG(about.st_mode)
                    or str(one.readlink()).startswith("/memfd:")
                ):
                    continue
            except OSError:
                continue
            seen[about.st_dev, about.st_ino] = about.st_blocks * 512
    return sum(seen.values())


def _du(inside: Callable[[Sequence[str]], list[str]], folders: Sequence[str]) -> int | None:
    """What lies on other file systems is not counted: the merged views of overlays, /proc, shared memory."""
    argv = ["du", "--summarize", "--total", "--block-size=1", "--one-file-system", "--", *folders]
    done = counting(argv)
    if done.code and inside(argv) != argv:  # another user's inside, which costs a process of the engine more
        done = counting(inside(argv))
    last = done.out.splitlines()[-1:] or [""]
    number = last[0].split("\t")[0]
    return int(number) if number.isdecimal() else None
