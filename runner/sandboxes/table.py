"""The sessions that a desk knows, in memory: no question of a client reads the disk."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from msgspec import structs

from kit.errors import NotFoundError, SlipworksError
from kit.say import say
from runner.sandboxes import records
from runner.sandboxes.held_port import HeldPort
from runner.sandboxes.nouns import LIVE, Session

LOOK = 0.1  # seconds
KEPT = 1000  # ended sessions that are still known


class Entry:
    """A session, and what only this process knows of it.

    session   as it is now: another object after each change, which is made under the table's lock.
    port      held for it, until its container takes it.
    bringing  a thread brings it up: while its engine starts a container, only that thread clears it away.
    entered   its engine has started it: what is not running now has ended.
    ending    set when it is to end; gone: when nothing of it is left.
    turn      whoever pauses or resumes it; clearing: somebody clears it away; stuck: that failed.
    unbegun   why no thread could be had for it; the watch fails it then.
    told      what an engine said when it could not start it: there is no other log then.
    """

    def __init__(self, session: Session, port: HeldPort | None = None) -> None:
        self.session, self.port, self.told, self.unbegun = session, port, "", ""
        self.bringing, self.entered, self.clearing, self.stuck = False, False, False, False
        self.ending, self.gone = threading.Event(), threading.Event()
        self.turn, self.disk = threading.Lock(), threading.Lock()
        self.saved: Session | None = None

    def cleared(self, seconds: float) -> bool:
        """Waits until nothing of it is left, or that failed; whether nothing is."""
        end = time.monotonic() + seconds
        while not self.gone.wait(LOOK):
            if self.stuck or time.monotonic() > end:
                return self.gone.is_set()
        return True


class Table:
    """Who touches more than one thing of it holds `lock`, which may be taken again by its holder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lock = threading.RLock()
        self._all: dict[str, Entry] = {}
        self._live: dict[str, Entry] = {}
        self._named: dict[str, Entry] = {}

    def add(self, entry: Entry) -> None:
        """The newest of its name from now on."""
        with self.lock:
            self._all[entry.session.id] = self._named[entry.session.wish.session] = entry
            if entry.session.live:
                self._live[entry.session.id] = entry

    def named(self, name: str) -> Entry | None:
        return self._named.get(name)

    def get(self, id: str) -> Entry | None:
        return self._all.get(id)

    def one(self, id: str) -> Entry:
        """NotFoundError for an id that is not known."""
        if entry := self._all.get(id):
            return entry
        raise NotFoundError(f"there is no sandbox {id}", "runner sandbox list")

    def live(self) -> list[Entry]:
        """The oldest first."""
        with self.lock:
            return list(self._live.values())

    def ports(self) -> set[int]:
        """Those that clients of live ones know: also while none of them listens."""
        return {each.session.port for each in self.live()}

    def has(self, id: str) -> bool:
        """Whether it lives, or is being cleared away."""
        entry = self._all.get(id)
        return entry is not None and not entry.gone.is_set()

    def left(self) -> list[Entry]:
        """Those that ended, and of which something is there that nobody clears away now."""
        with self.lock:
            ended = [each for each in self._all.values() if not (each.session.live or each.gone.is_set())]
            return [each for each in ended if not (each.clearing or each.bringing)]

    def change(self, entry: Entry, phases: Collection[str] = LIVE, **fields: Any) -> Session | None:
        """The session with other fields; None, and no change, where it is in none of these phases now."""
        with self.lock:
            if entry.session.phase not in phases:
                return None
            entry.session = structs.replace(entry.session, **fields)
            if not entry.session.live:
                self._live.pop(entry.session.id, None)
            return entry.session

    def save(self, entry: Entry) -> None:
        """Puts it on disk as it is now: of two that save at once none leaves an older state."""
        with entry.disk:
            session = entry.session
            if session is not entry.saved:
                records.write(self.folder, session)
                entry.saved = session

    def note(self, entry: Entry) -> None:
        """Saves what is told if it cannot be saved: a full disk ends no sandbox."""
        try:
            self.save(entry)
        except (SlipworksError, OSError) as failure:
            say(f"error: the state of sandbox {entry.session.id} could not be saved: {failure}")

    def forget(self) -> None:
        """Lets the oldest of the ended ones go, but for the last of them."""
        with self.lock:
            ended = [each for each in self._all.values() if each.gone.is_set()]
            old = sorted(ended, key=lambda each: each.session.ended)[: max(0, len(ended) - KEPT)]
            for each in old:
                del self._all[each.session.id]
                if self._named.get(each.session.wish.session) is each:
                    del self._named[each.session.wish.session]
        for each in old:
            records.drop(self.folder, each.session.id)
