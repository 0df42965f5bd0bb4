"""Removes what garbage.py has found, safely beside builds on this and on other hosts.

Nothing is removed under its own name. A file is renamed to a name that no reader knows, then its time is
looked at again: if it was marked in between it gets its name back, and who marks it after that is told that
it is gone, and makes it anew. Between records and blobs all that is left is read again, so a blob that
somebody put into an image meanwhile is kept. Killed at any moment, the next run gives back what was moved.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

from image_cache import garbage, litter
from image_cache.catalogue import ASIDE, Catalogue
from image_cache.garbage import Plan
from image_cache.litter import Garbage
from kit.errors import HostError

Tell = Callable[[Garbage], None]
NAMING = ("image", "layer")


def collect(store: Catalogue, plan: Plan, tell: Tell = lambda gone: None) -> int:
    """Removes what is planned and still garbage, and tells of each; returns the bytes that came free.

    HostError at the end, when the rest is done, for what may not be removed.
    """
    closed: list[OSError] = []
    _give_back(store)
    naming = [each for each in plan.garbage if each.kind in NAMING]
    for each in naming:
        _gone(each, tell, closed)
    if (store.root / "index.json").exists():  # whether or not one of them was: a killed run may have left it
        store.records.write_index()
    freed = 0
    needed = garbage.live(
        store, (records := garbage.every_record(store)).values(), garbage.every_layer(store).values()
    )
    sifs = litter.sif_files(records.values())
    for each in plan.garbage:
        if each.kind in NAMING or f"sha256:{each.path.name}" in needed:
            continue
        if each.kind == "sif" and each.path.name in sifs:
            continue
        if _gone(each, tell, closed):
            freed += each.size
    if closed:
        raise HostError(f"{len(closed)} files could not be removed: {closed[0]}", f"ls -ld '{store.root}'")
    return freed


def _gone(each: Garbage, tell: Tell, closed: list[OSError]) -> bool:
    try:
        gone = _removed(each.path, each.before)
    except OSError as bad:
        closed.append(bad)
        return False
    if gone:
        tell(each)
    return gone


def _removed(path: Path, before: float) -> bool:
    """False where it is gone already, or was marked since the plan was made."""
    aside = path.with_name(f"{ASIDE}{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        path.rename(aside)
        if litter.newest(aside) > before:
            _restore(aside, path)
            return False
        if aside.is_dir():
            _let_in(aside)
            shutil.rmtree(aside)
        else:
            aside.unlink()
    except FileNotFoundError:
        return False
    return True


def _let_in(folder: Path) -> None:
    """Makes every folder writable: those of an unpacked image may let nobody remove what is in them."""
    folder.chmod(0o700)
    for inside, names, _ in os.walk(folder):
        for each in (Path(inside, name) for name in names):
            if not each.is_symlink():
                with contextlib.suppress(OSError):  # rmtree says what is wrong
                    each.chmod(0o700)


def _restore(aside: Path, path: Path) -> None:
    """Gives a file its name back, unless a new one has it."""
    if aside.is_dir():
        with contextlib.suppress(OSError):  # not empty: a new one is there
            aside.rename(path)
        return
    with contextlib.suppress(FileExistsError):
        os.link(aside, path)
    aside.unlink()


def _give_back(store: Catalogue) -> None:
    for folder in store.folders:
        for aside in folder.glob(f"{ASIDE}*.tmp"):
            with contextlib.suppress(OSError):
                _restore(aside, folder / aside.name.removeprefix(ASIDE).rsplit(".", 2)[0])
