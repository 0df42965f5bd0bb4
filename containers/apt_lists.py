"""Package lists that are fetched once while several things are made of one archive."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from kit.nouns import digest

_kept: list[Path] = []  # innermost last


@contextlib.contextmanager
def one_state() -> Iterator[None]:
    """Within it each place's lists are fetched once: what is made together is of one state of the archive."""
    with tempfile.TemporaryDirectory(prefix="slipworks-lists-") as name:
        _kept.append(Path(name))
        try:
            yield
        finally:
            _kept.pop()


def lent(place: str, lists: Path) -> bool:
    """Whether the lists of a place were kept; if so they lie in the folder `lists` now."""
    if not _kept or not (there := _folder(place)).is_dir():
        return False
    _link(there, lists)
    return True


def keep(place: str, lists: Path) -> None:
    """Keeps a place's lists until the end of `one_state`; outside of it, does nothing."""
    if _kept:
        _folder(place).mkdir()
        _link(lists, _folder(place))


def _folder(place: str) -> Path:
    return _kept[-1] / digest(place.encode()).removeprefix("sha256:")


def _link(lists: Path, to: Path) -> None:
    """The same files in another folder: apt replaces its lists and never writes to them."""
    for file in lists.iterdir():
        if file.is_file():
            (to / file.name).hardlink_to(file)
