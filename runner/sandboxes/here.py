"""The sandboxes of this machine, as commands find them: those that were started by hand, and a server's.

What is known of them is read from state folders, and whether they live is asked of their engines.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from kit import say
from kit.errors import NotFoundError, SlipworksError, UnknownNameError, UsageError
from kit.suggest import nearest
from runner.sandboxes import backend, places, records
from runner.sandboxes.backend import Backend, State
from runner.sandboxes.nouns import Session, Wish
from runner.sandboxes.settings import Settings

ENDED = "ended"
LEFT = "left"


class Seen(Struct, frozen=True, kw_only=True):
    """A sandbox, and the state folder that knows of it.

    state  its phase; where its container is "paused" or has "ended", that; "left": a container whose session
           ended, or has no record, as of a server that was killed at the wrong moment.
    """

    session: Session
    folder: Path
    state: str

    @property
    def name(self) -> str:
        return self.session.wish.session

    @property
    def by_hand(self) -> bool:
        return self.folder == places.by_hand()


def folders(given: Path | None = None) -> list[Path]:
    """The state folders that a command looks into: the one that it was given, or this user's own."""
    if given is None:
        return [places.by_hand(), places.served()]
    if not given.is_dir():
        raise NotFoundError(f"there is no state folder {given}", "runner sandbox list")
    return [given.absolute()]


def engine(session: Session) -> Backend:
    """The backend that has its container; NotFoundError where there never was one."""
    if not session.engine:
        told = f"the sandbox {session.wish.session} has no container"
        raise NotFoundError(
            told + (f": {session.why}" if session.why else " yet"), "runner sandbox list --all"
        )
    return backend.get(session.engine, Settings())


def every(folders: Iterable[Path]) -> list[Seen]:
    """What each folder knows, the oldest first. An engine that gives no answer is told, and believed dead
    by nobody: its sandboxes are what their records say."""
    return sorted((seen for folder in folders for seen in _of(folder)), key=lambda seen: seen.session.began)


def _of(folder: Path) -> list[Seen]:
    known = records.read(folder)
    running = {name: _states(name, records.label(folder)) for name in {each.engine for each in known} - {""}}
    recorded = {each.id for each in known}
    strays = [
        Session(id=id, wish=Wish(session=f"slipworks-{id}", image=""), phase="failed", engine=name)
        for name, found in running.items() for id in found or () if id not in recorded
    ]  # fmt: skip
    return [
        Seen(session=each, folder=folder, state=_state(each, running.get(each.engine)))
        for each in (*known, *strays)
    ]


def _state(session: Session, running: dict[str, State] | None) -> str:
    if running is None:
        return session.phase
    found = running.get(session.id, ENDED)
    if session.phase in ("ready", "paused") and found != "running":
        return found
    return LEFT if not session.live and found != ENDED else session.phase


def _states(engine: str, label: str) -> dict[str, State] | None:
    try:
        return backend.get(engine, Settings()).states(label)
    except SlipworksError as failure:
        say.once(f"note: {engine} does not tell what runs: {failure.message}")
        return None


def one(word: str, among: Sequence[Seen]) -> Seen:
    """The sandbox that a word means: its name, its id, or the beginning of either. One that lives goes before
    those that do not, and then the newest. UnknownNameError for none, UsageError for several."""
    alike = [each for each in among if word in (each.name, each.session.id)]
    if not alike:
        alike = [each for each in among if each.name.startswith(word) or each.session.id.startswith(word)]
    living = [each for each in alike if each.session.live and each.state != ENDED]
    names = {each.name for each in living or alike}
    if len(living) > 1 or len(names) > 1:
        told = ", ".join(sorted(f"{each.name} ({each.session.id})" for each in living or alike))
        raise UsageError(f"{word!r} means {len(living or alike)} sandboxes: {told}", "runner sandbox list")
    if not alike:
        meant = nearest(word, [each.name for each in among])
        raise UnknownNameError(
            f"there is no sandbox {word!r} on this machine" + (f"; did you mean {meant!r}?" if meant else ""),
            "runner sandbox list --all",
        )
    return living[0] if living else alike[-1]


def told(seen: Seen) -> dict[str, Any]:
    """For programs; the session key is in the file `record`, which is its owner's alone."""
    session = seen.session
    return {
        "name": seen.name, "id": session.id, "state": seen.state, "why": session.why,
        "image": session.wish.image, "engine": session.engine, "by": "hand" if seen.by_hand else "server",
        "url": session.url, "began": session.began, "ready": session.ready, "ended": session.ended,
        "state_folder": str(seen.folder), "record": str(seen.folder / "sessions" / f"{session.id}.json"),
    }  # fmt: skip


def log(seen: Seen, lines: int) -> str:
    """The end of what it wrote: of one that ended, what was kept."""
    session = seen.session
    if session.live and session.engine:
        return engine(session).logs(session.id, lines)
    return "".join(records.log(seen.folder, session.id).splitlines(keepends=True)[-lines:])


def entered(seen: Seen, argv: Sequence[str], *, terminal: bool) -> list[str]:
    """The command that runs `argv` in a sandbox that lives; NotFoundError for one that does not."""
    if seen.state not in ("ready", "starting"):
        why = f": {seen.session.why}" if seen.session.why else ""
        paused = seen.state == "paused"
        raise NotFoundError(
            f"nothing runs in the sandbox {seen.name}: it is {seen.state}{why}",
            None if paused else f"runner sandbox logs {seen.name}",
        )
    return engine(seen.session).exec_argv(seen.session.id, argv, terminal=terminal)
