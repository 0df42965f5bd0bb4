"""Built once, however many processes and hosts ask at the same time."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, TypeVar

from image_cache.claim import SILENCE, Claim
from image_cache.oci import Artifact
from image_cache.store import Store
from kit.errors import VerifyError
from kit.nouns import Format, Image
from kit.say import once

T = TypeVar("T")

SOONEST, LATEST = 0.05, 1.0  # seconds between two looks


class Place(Protocol):
    """What things are kept in by key: the store, the wheelhouse."""

    root: Path
    claims: Path

    def writable(self) -> AbstractContextManager[None]: ...

    def look_again(self) -> None: ...


def ensure(
    store: Store, key: str, format: Format, build: Callable[[], Image], *, silence: float = SILENCE
) -> Image:
    """The image of `key`: at once when it is there, else by `build`, which must put it into the store.

    Of all that ask at once one builds and the others wait for it. When the builder fails it raises what
    `build` raised, and the next one tries; when it is killed, another takes over (see claim.py).
    """
    return once_only(store, key, format, lambda: store.find(key, format), build, silence)


def ensure_artifact(
    store: Store,
    key: str,
    build: Callable[[], Artifact],
    *,
    silence: float = SILENCE,
    sleep: Callable[[float], None] = time.sleep,
) -> Artifact:
    """The layer of `key`, with the same promises as `ensure`; `build` must put it under that key."""
    return once_only(store, key, "layer", lambda: store.artifact(key), build, silence, sleep)


def once_only(
    store: Place,
    key: str,
    kind: str,
    find: Callable[[], T | None],
    build: Callable[[], T],
    silence: float = SILENCE,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """What `find` finds, or else `build` has made, with the promises of `ensure`.

    sleep: how to wait until the next look for what another makes; what it raises passes through.
    """
    if hit := find():
        return hit
    claim = Claim(store.claims / f"{key}.{kind}", silence)
    pause = SOONEST
    while True:
        with contextlib.ExitStack() as stack:
            with store.writable():
                mine = stack.enter_context(claim.taken())
            if mine:
                # Someone may have finished between our look and our claim.
                store.look_again()
                return find() or _built(store, key, find, build)
        if (owner := claim.holder()) and owner.host:
            once(f"waiting for process {owner.pid} on {owner.host}, which is making {key[:12]} ({kind})")
        # No event tells of a file that another host writes; a look costs one small read.
        sleep(pause)
        pause = min(LATEST, pause * 1.5)
        if hit := find():
            return hit


def _built(store: Place, key: str, find: Callable[[], T | None], build: Callable[[], T]) -> T:
    build()
    if (found := find()) is None:
        raise VerifyError(f"a build ended well, but {store.root} has nothing under {key[:12]}")
    return found
