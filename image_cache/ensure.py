"""Built once, however many processes and hosts ask at the same time."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

from image_cache.claim import SILENCE, Claim
from image_cache.store import Store
from kit.errors import VerifyError
from kit.nouns import Format, Image
from kit.say import once

SOONEST, LATEST = 0.05, 1.0  # seconds between two looks


def ensure(
    store: Store, key: str, format: Format, build: Callable[[], Image], *, silence: float = SILENCE
) -> Image:
    """The image of `key`: at once when it is there, else by `build`, which must put it into the store.

    Of all that ask at once one builds and the others wait for it. When the builder fails it raises what
    `build` raised, and the next one tries; when it is killed, another takes over (see claim.py).
    """
    if hit := store.find(key, format):
        return hit
    claim = Claim(store.root / "claims" / f"{key}.{format}", silence)
    pause = SOONEST
    while True:
        with contextlib.ExitStack() as stack:
            with store.writable():
                mine = stack.enter_context(claim.taken())
            if mine:
                # Someone may have finished between our look and our claim.
                store.records.look_again()
                return store.find(key, format) or _built(store, key, format, build)
        if (owner := claim.holder()) and owner.host:
            once(f"waiting for process {owner.pid} on {owner.host}, which is making {key[:12]} ({format})")
        # No event tells of a file that another host writes; a look costs one small read.
        time.sleep(pause)
        pause = min(LATEST, pause * 1.5)
        if hit := store.find(key, format):
            return hit


def _built(store: Store, key: str, format: Format, build: Callable[[], Image]) -> Image:
    image = build()
    if store.find(key, format) is None:
        raise VerifyError(f"{image.name} was built, but the store {store.root} has nothing under {key[:12]}")
    return image
