"""Package lists that are fetched once while several things are made of one archive."""

from __future__ import annotations

import contextlib
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from kit.nouns import digest

_kept: list[Path] = []  # innermost last
_turn = threading.Lock()


@contextlib.contextmanager
def one_state() -> Iterator[None]:
    """Within it each place's lists are fetched once: what is made together is of one state of the archive."""
    with tempfile.TemporaryDirectory(prefix="slipworks-lists-") as name:
        _kept.append(Path(name))
        try:
            yield
        finally:
            _kept.pop()


def fetched(place: str, lists: Path, fetch: Callable[[], None]) -> None:
    """Fills the folder `lists`: with what was fetched for that place before within `one_state`, else by
    `fetch`. Of threads that ask at once one fetches, and the others wait."""
    if not _kept:
        return fetch()
    with _turn:
        there = _folder(place)
        if there.is_dir():
            return _link(there, lists)
        fetch()
        there.mkdir()
        _link(lists, there)


def _folder(place: str) -> Path:
    return _kept[-1] / digest(place.encode()).removeprefix("sha256:")


def _link(lists: Path, to: Path) -> None:
    """The same files in another folder: apt replaces its lists and never writes to them."""
    for file in lists.iterdir():
        if file.is_file():
            (to / file.name).hardlink_to(file)
