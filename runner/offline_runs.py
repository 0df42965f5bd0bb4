"""Weights & Biases' offline runs in a run folder: where they lie, and which have reached the server."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from msgspec import Struct

from kit import exact, files
from runner.run_states import Now
from runner.runs import RunFolder

FOLDER = re.compile(r"offline-run-\d{8}_\d{6}-(.+)")
"""What W&B calls an offline run's folder, by time and its own id; in it lies run-<id>.wandb."""
MARKS = "wandb-synced.json"
"""The file of the run folder that says which have been synced."""


class Offline(Struct, frozen=True, kw_only=True):
    """An offline run. name: its folder's; id: W&B's own; file: its log; size, changed: the log's, bytes and
    seconds since 1970."""

    name: str
    id: str
    file: Path
    size: int
    changed: float


class Mark(Struct, frozen=True, kw_only=True):
    """One that has reached the server. size: of its log then; whole: else the log ends within a record, for
    what wrote it was killed; url: where it is seen; at: UTC."""

    size: int
    whole: bool
    at: str
    url: str | None = None


def found(folder: RunFolder) -> list[Offline]:
    """Those of a run, the oldest first: where the fix wandb_offline lets them be written, and where its
    artifacts have copies. Of two copies the longer one counts."""
    known: dict[str, Offline] = {}
    for place in (folder.root / "wandb", folder.artifacts):
        for path in sorted(place.rglob("offline-run-*")):
            each = _read(path)
            if each and (each.name not in known or known[each.name].size < each.size):
                known[each.name] = each
    return sorted(known.values(), key=lambda each: each.name)


def _read(path: Path) -> Offline | None:
    named = FOLDER.fullmatch(path.name)
    if named is None:
        return None
    file = path / f"run-{named[1]}.wandb"
    try:
        about = file.stat()
    except OSError:
        return None
    return Offline(name=path.name, id=named[1], file=file, size=about.st_size, changed=about.st_mtime)


def growing(each: Offline, now: Now) -> bool:
    """Whether an attempt that has not ended may still write it."""
    last = now.files.last
    if now.over or last is None or last.ended is not None:
        return False
    return last.begun is None or each.changed >= last.begun


def marks(folder: RunFolder) -> dict[str, Mark]:
    """By folder's name. A file that cannot be read says nothing: what is synced twice harms nobody."""
    with contextlib.suppress(OSError, ValueError):
        return exact.decode((folder.root / MARKS).read_bytes(), dict[str, Mark])
    return {}


def mark(folder: RunFolder, name: str, made: Mark) -> None:
    files.write(folder.root / MARKS, exact.encode({**marks(folder), name: made}))


def is_done(each: Offline, marked: Mark | None) -> bool:
    """Whether nothing of it is left to sync: by our own mark, or W&B's, where its user typed `wandb sync`."""
    if marked is None:
        return beside(each).exists()
    return marked.size == each.size


def beside(each: Offline) -> Path:
    """The file by which W&B marks a log as synced."""
    return each.file.with_name(f"{each.file.name}.synced")
