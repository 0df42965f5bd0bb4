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
def held(
    folder: Path | None, silence: float = SILENCE, beat: float = BEAT, name: Path | None = None
) -> Iterator[None]:
    """The right to write, until the block ends. HeldError while another process has it, which tells `name`
    where it is not the folder that is written to.

    A holder on another host is watched until it shows a sign of life, or has shown none for `silence`
    seconds: then it is dead, and its work goes on here.
    """
    if folder is None:
        yield
        return
    claim = Claim(folder / "claim", silence, beat)
    while True:
        with claim.taken() as mine:
            if mine:
                yield
                return
        if owner := living(claim, beat):
            raise _refused(owner, name or folder)


def readable(folder: Path, silence: float = SILENCE, beat: float = BEAT) -> None:
    """Returns when this host may read: nobody on another host writes. HeldError as above."""
    claim = Claim(folder / "claim", silence, beat)
    owner = claim.holder()
    if owner and owner.host and owner.machine != Owner.here().machine and living(claim, beat):
        raise _refused(owner, folder)


def holder(folder: Path) -> Owner | None:
    """Who writes now."""
    return Claim(folder / "claim").holder()


def living(claim: Claim, beat: float) -> Owner | None:
    """The holder, once it is sure that it lives; None once it is gone, or silent for too long."""
    first, told = claim.holder(), False
    while owner := claim.holder():
        if owner.host and (owner.machine == Owner.here().machine or owner != first):
            return owner
        if owner.host and not told:
            told = True
            say(f"process {owner.pid} on {owner.host} had {claim.folder.parent}: looking for a sign of life")
        time.sleep(min(1.0, beat / 4))
    return None


def _refused(owner: Owner, folder: Path) -> HeldError:
    here = owner.machine == Owner.here().machine
    sign = f"{'it is alive' if here else 'it gave a sign of life just now'} (heartbeat {owner.beat})"
    return HeldError(
        f"{folder} is written to by process {owner.pid} on {owner.host}: {sign}",
        f"kill {owner.pid}" if here else f"wait until it ends, or on {owner.host}: kill {owner.pid}",
    )
