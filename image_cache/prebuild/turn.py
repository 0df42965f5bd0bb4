"""Who may write to a journal: one process of one host."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from image_cache.claim import BEAT, SILENCE, Claim, Owner
from kit.errors import HeldError
from kit.say import say


@contextlib.contextmanager
def held(folder: Path | None, silence: float = SILENCE, beat: float = BEAT) -> Iterator[None]:
    """The right to write, until the block ends. HeldError while another process has it.

    A holder on another host is watched until it shows a sign of life, or has shown none for `silence`
    seconds: then it is dead, and its work goes on here.
    """
    if folder is None:
        yield
        return
    claim = Claim(folder / "claim", silence, beat)
    began, first, told = time.monotonic(), claim.holder(), False
    while True:
        with claim.taken() as mine:
            if mine:
                yield
                return
        owner = claim.holder()
        if owner is None:
            continue
        if owner.host and (owner.machine == Owner.here().machine or _alive(first, owner)):
            raise _refused(owner, folder, time.monotonic() - began)
        if owner.host and not told:
            told = True
            say(f"process {owner.pid} on {owner.host} held {folder}: looking for a sign of life")
        first = first or owner
        time.sleep(min(1.0, beat / 4))


def _alive(first: Owner | None, now: Owner) -> bool:
    """On another host: did its sign of life change while we watched?"""
    return first is not None and first != now


def _refused(owner: Owner, folder: Path, watched: float) -> HeldError:
    here = owner.machine == Owner.here().machine
    sign = "it is alive" if here else f"its last sign of life is less than {watched + 1:.0f} s old"
    return HeldError(
        f"{folder} is written to by process {owner.pid} on {owner.host}: {sign}",
        f"kill {owner.pid}" if here else f"wait until it ends, or on {owner.host}: kill {owner.pid}",
    )
