"""Sessions on disk, in a state folder: what a server or a command needs to find its sandboxes again.

    id                  of the folder: the label of its containers, by which a server knows its own
    claim/              who serves from this folder now
    sessions/ID.json    a session, with its key
    sessions/ID.log     the end of what an ended sandbox wrote
    sandboxes/ID/       a backend's own, of one sandbox, while that lives

All of it is its owner's alone (0700, 0600). Each file is written whole, and what is no record is passed over
with a word: it belongs to a writer that died, or to another version.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

from msgspec import DecodeError, json

from image_cache.prebuild import turn
from kit import files
from kit.errors import HostError
from kit.say import once
from runner.sandboxes import foreign_files
from runner.sandboxes.nouns import Session

ID = re.compile(r"[0-9a-f]{16}")
KEPT = 1 << 16  # characters of a log
LABEL = re.compile(r"[0-9a-f]{12}")


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """The right to serve from a state folder, until the block ends. HeldError, which names its process, while
    another server has it; one that was killed on this machine has lost it at once."""
    private(folder)
    with turn.held(folder, name=folder):
        yield


def private(folder: Path) -> Path:
    """The folder, made where it is missing, and nobody else's to read. HostError where it is another's."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if folder.stat().st_mode & 0o077:
            folder.chmod(0o700)
    except OSError as refused:
        told = f"the state folder {folder} cannot be made this user's own: {refused.strerror}"
        raise HostError(told, "runner sandbox serve --state FOLDER") from refused
    return folder


def label(folder: Path) -> str:
    """The id of a state folder, made when it is first asked for; of several that ask at once all get one."""
    path = private(folder) / "id"
    if not LABEL.fullmatch(found := _text(path)):
        with files.beside(path) as temporary:
            temporary.write_text(secrets.token_hex(6))
            with contextlib.suppress(FileExistsError):
                os.link(temporary, path)
        found = _text(path)
    if not LABEL.fullmatch(found):
        raise HostError(f"{path} holds {found[:40]!r}, expected 12 hexadecimal digits", f"rm {path}")
    return found


def read(folder: Path) -> list[Session]:
    """All that there are, the oldest first; none for a folder that is not there."""
    found = (_session(path) for path in (folder / "sessions").glob("*.json"))
    return sorted((each for each in found if each), key=lambda each: (each.began, each.id))


def write(folder: Path, session: Session) -> None:
    """Durable when it returns."""
    private(folder)
    files.write(_path(folder, session.id, "json"), json.encode(session), 0o600)


def drop(folder: Path, id: str) -> None:
    """Forgets a session, its log and its folder. Idempotent."""
    for kind in ("json", "log"):
        _path(folder, id, kind).unlink(missing_ok=True)
    clear(folder, id)


def own_folder(folder: Path, id: str) -> Path:
    """A sandbox's own folder, made where it is missing."""
    private(folder / "sandboxes")
    return private(folder / "sandboxes" / id)


def clear(folder: Path, id: str) -> None:
    """Removes a sandbox's own folder. Idempotent."""
    foreign_files.removed(folder / "sandboxes" / id)


def log(folder: Path, id: str) -> str:
    """What was kept of the log of an ended one; empty where nothing was."""
    return _text(_path(folder, id, "log"))


def keep_log(folder: Path, id: str, text: str) -> None:
    """Keeps the end of a log: a sandbox may write what it likes."""
    files.write(_path(folder, id, "log"), text[-KEPT:].encode(errors="replace"), 0o600)


def _path(folder: Path, id: str, kind: str) -> Path:
    return private(folder / "sessions") / f"{id}.{kind}"


def _session(path: Path) -> Session | None:
    if not ID.fullmatch(path.stem):
        return None
    try:
        found = json.decode(path.read_bytes(), type=Session)
    except (OSError, DecodeError) as bad:  # ValidationError is a DecodeError
        once(f"note: {path} is no record of a sandbox: {bad}")
        return None
    return found if found.id == path.stem else None


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
