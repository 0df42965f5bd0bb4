"""What ended runs leave: the logs, which grow large, go; what tells how a run went stays."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from msgspec import Struct

from kit import say
from kit.errors import InvalidFileError
from runner import batching, moments, watching
from runner.runs import RunFolder

KEPT = "job.log"
"""Of an attempt's logs: a few lines of the batch script's, with the exit code."""


class Cleaned(Struct, frozen=True, kw_only=True):
    """A run and what of it goes (would go). size: the bytes that come free; ended: seconds since 1970."""

    run: str
    state: str
    ended: float | None
    size: int
    paths: tuple[Path, ...]


HEADS = ("RUN", "STATE", "ENDED", "FILES", "SIZE")


def line(cleaned: Cleaned) -> tuple[str, ...]:
    """The cells below HEADS."""
    what = "all" if cleaned.paths[0].name == cleaned.run else str(len(cleaned.paths))
    return cleaned.run, cleaned.state, moments.local(cleaned.ended), what, f"{cleaned.size / 1e6:.1f} MB"


def told(cleaned: Cleaned) -> dict[str, object]:
    """For machines."""
    return {
        "run": cleaned.run, "state": cleaned.state, "ended": moments.utc(cleaned.ended), "size": cleaned.size,
        "paths": [str(each) for each in cleaned.paths],
    }  # fmt: skip


def plan(folders: Sequence[RunFolder], older: float, watch: watching.Watch, *, whole: bool) -> list[Cleaned]:
    """What of runs that ended more than `older` seconds ago would go; of any other, nothing.

    whole: the run folders themselves, with artifacts and code. Checkpoints lie elsewhere and stay. So
    does the folder of a run that another, which comes after it, still reads: that is told.
    """
    found = []
    candidates = [each for each in folders if watching.settled(each, older) or _old(each, older)]
    for now in watch.states(candidates):
        # A run whose end nobody knows is left alone.
        if not now.over or not now.sure or time.time() - (now.ended or now.files.made) < older:
            continue
        folder = now.files.folder
        if whole and (why := awaited(folder, watch)):
            say.once(f"{folder.root.name} is left as it is: {why}")
            continue
        paths = (folder.root,) if whole else tuple(logs(folder))
        size = sum(map(_size, paths))
        if paths and (size or whole):
            found.append(
                Cleaned(run=folder.root.name, state=now.state, ended=now.ended, size=size, paths=paths)
            )
    return found


def awaited(folder: RunFolder, watch: watching.Watch) -> str | None:
    """Why a run's folder may still be read by the run that comes after it; None: by none."""
    from runner.after import submitting

    try:
        after = submitting.of(folder)
    except InvalidFileError as bad:
        return bad.message
    if after is None:
        return None
    now = watch.state(after)
    return None if now.over and now.sure else f"{after.root.name}, which comes after it, has not ended"


def logs(folder: RunFolder) -> Iterator[Path]:
    """A run's logs, the daemons' too, and the image's copy by which nodes fetched it."""
    yield from sorted(folder.root.glob("slurm-*.out"))
    layout = folder.root / batching.LAYOUT
    if layout.is_dir() and not layout.is_symlink():
        yield layout
    for attempt in folder.attempts():
        yield from sorted(each for each in attempt.folder.glob("*.log") if each.name != KEPT)
        yield from sorted(each for each in attempt.folder.glob("ray-*") if each.is_dir())


def remove(cleaned: Cleaned) -> None:
    """Takes them away. What cannot be removed is an OSError that names it."""
    for path in cleaned.paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _old(folder: RunFolder, older: float) -> bool:
    """Whether it was made before that, so that it may have ended before."""
    try:
        return time.time() - folder.launch.stat().st_mtime > older
    except OSError:
        return False


def _size(path: Path) -> int:
    """Bytes that its removal frees: files with a second name elsewhere do not count."""
    if path.is_symlink() or not path.is_dir():
        return _freed(path)
    return sum(_freed(Path(above, name)) for above, _, names in os.walk(path) for name in names)


def _freed(path: Path) -> int:
    try:
        found = path.lstat()
    except OSError:
        return 0
    return found.st_size if found.st_nlink == 1 else 0
