"""The watch: one thread that looks after all sandboxes of a desk, by one question to the engine a round."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Protocol

from kit.errors import SlipworksError
from kit.say import once, say
from runner.sandboxes import failures, lifetimes, returning
from runner.sandboxes.backend import State
from runner.sandboxes.bringing import Node
from runner.sandboxes.nouns import Phase, Session
from runner.sandboxes.table import Entry

SOON, LATER = 1.0, 5.0  # seconds between two looks: while a sandbox comes up or waits, and else
PATIENCE = 5.0  # seconds for the last round
HANDS = 16  # sandboxes that are asked, or ended, at once
ASKED = 30.0  # seconds between two questions whether a sandbox that looks idle is busy
SAVED = 60.0  # seconds between two writings of when a sandbox was used
STRAYS = 600.0
"""Seconds in which the engine is asked also where no sandbox lives: a server that was killed may have left a
command behind that starts one later than its heir looked."""


class Ends(Protocol):
    """What the watch makes a desk do."""

    def end(self, entry: Entry, phase: Phase, why: str = "") -> None: ...

    def clear(self, entry: Entry) -> None: ...

    def late(self, now: float) -> None: ...


class Hands:
    """Threads for what may take long: one piece of work at a time for each sandbox."""

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(HANDS, thread_name_prefix=name)
        self._busy: set[str] = set()

    def do(self, id: str, work: Callable[[], None]) -> None:
        """Has it done, unless there is something to do for that sandbox already, or no more."""
        if id in self._busy:
            return
        self._busy.add(id)

        def done() -> None:
            try:
                work()
            except Exception:
                say(traceback.format_exc())
            finally:
                self._busy.discard(id)

        with suppress(RuntimeError):  # it was closed
            self._pool.submit(done)

    def close(self) -> None:
        """What has not begun is left; what has goes on."""
        self._pool.shutdown(wait=False, cancel_futures=True)


class Watch:
    """`look` is one round; nothing that fails in one ends the watch."""

    def __init__(self, node: Node, desk: Ends) -> None:
        self.node, self._desk = node, desk
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        # Apart: a sandbox may let those who ask it wait for long, and is ended all the same.
        self._asking, self._ending = Hands("asks"), Hands("ends")
        self._asked: dict[str, float] = {}
        self._strays: set[str] = set()
        self._began = time.monotonic()

    def begin(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """No round begins any more. One that waits for an engine, or an end that takes time, is not awaited
        for long: Slurm kills a server that does not end."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join(PATIENCE)
        self._asking.close()
        self._ending.close()

    def _run(self) -> None:
        while not self._closed.wait(self._pause()):
            try:
                self.look()
            except SlipworksError as failure:
                once(f"error: the sandboxes could not be looked after: {failure.message}")
            except Exception:
                say(traceback.format_exc())

    def _pause(self) -> float:
        coming = any(each.session.phase in ("queued", "starting") for each in self.node.table.live())
        return SOON if coming else LATER

    def look(self) -> None:
        now = self.node.clock()
        self._desk.late(now)
        live = self.node.table.live()
        entered = [each for each in live if each.entered]  # what is to be there is known before it is asked
        states = self._states(bool(entered))
        dead = {each for each in entered if states.get(each.session.id, "ended") == "ended"}
        self._asked = {id: then for id, then in self._asked.items() if self.node.table.has(id)}
        self._end_strays(states)
        for entry in live:
            if entry in dead:
                self._ending.do(entry.session.id, partial(self._ended, entry))
            else:
                self._of_age(entry, now)
        for entry in self.node.table.left():
            self._ending.do(entry.session.id, partial(self._desk.clear, entry))
        self.node.table.forget()

    def _of_age(self, entry: Entry, now: float) -> None:
        session, settings = entry.session, self.node.settings
        if entry.unbegun:
            self._ending.do(session.id, partial(self._desk.end, entry, "failed", entry.unbegun))
        elif why := lifetimes.over(session, settings, now):
            self._ending.do(session.id, partial(self._desk.end, entry, "stopped", why))
        elif why := lifetimes.idle(session, settings, now):
            if now - self._asked.get(session.id, 0.0) >= ASKED:
                self._asked[session.id] = now
                self._asking.do(session.id, partial(self._idle, entry, why))
        else:
            self._asked.pop(session.id, None)
            if entry.saved and session.used - entry.saved.used >= SAVED:
                self.node.table.note(entry)

    def _idle(self, entry: Entry, why: str) -> None:
        """Ends it, unless its server was busy not long ago."""
        session, now = entry.session, self.node.clock()
        if session.phase == "ready" and (quiet := _quiet(self.node, session)) is not None:
            self.node.table.change(entry, ("ready",), used=max(session.used, now - quiet))
        if lifetimes.idle(entry.session, self.node.settings, now):
            self._ending.do(session.id, partial(self._desk.end, entry, "stopped", why))

    def _states(self, any_: bool) -> dict[str, State]:
        if any_ or self._strays or time.monotonic() - self._began < STRAYS:
            return self.node.backend.states(self.node.label)
        return {}

    def _end_strays(self, states: dict[str, State]) -> None:
        """Ends what no session has in two rounds: of one it may be that it was just being cleared away."""
        strays = {id for id in states if not self.node.table.has(id)}
        for id in strays & self._strays:
            self._ending.do(id, partial(returning.unclaimed, self.node, id))
        self._strays = strays

    def _ended(self, entry: Entry) -> None:
        self._desk.end(entry, "failed", failures.ended(self.node, entry))


def _quiet(node: Node, session: Session) -> float | None:
    """Seconds since its server was busy; None where it does not say, or not now."""
    try:
        with node.agent(session.url, session.key) as agent:
            return agent.idle()
    except (SlipworksError, RecursionError):  # it may answer whatever it likes
        return None
