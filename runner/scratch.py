"""Temporary folders where there is room for gigabytes."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from image_cache.store import Store
from kit import files
from kit.errors import NoSpaceError


@contextlib.contextmanager
def folder(store: Store, prefix: str) -> Iterator[Path]:
    """A folder beside the store, on its disk, where links into caches may work; gone at the end.

    NoSpaceError, with what would free space, where that disk or a quota is full.
    """
    above = store.root.parent / "scratch"
    with store.writable():
        above.mkdir(parents=True, exist_ok=True)
    try:
        with files.space_named(above), tempfile.TemporaryDirectory(prefix=prefix, dir=above) as name:
            yield Path(name)
    except NoSpaceError as full:  # by then the folder is gone, and does not count
        raise NoSpaceError(full.message, store.space_hint() or full.hint) from full
