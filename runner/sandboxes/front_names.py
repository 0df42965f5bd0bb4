"""Which of the sandboxes of one name is the session's, as a front has it from several nodes.

Nodes' clocks differ, and a request that a node was given up for may be done there after all: so what a client
was given is its session's, whatever else of that name lives. Only of what nobody was given the older one is.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from runner.sandboxes.nouns import Session


class Names:
    """The first of each name. Who asks it holds the front's lock."""

    def __init__(self) -> None:
        self._first: dict[str, str] = {}
        self._given: set[str] = set()  # names of which a client was given the first

    def get(self, name: str) -> str:
        """The id of its first; empty where there is none."""
        return self._first.get(name, "")

    def anew(self, name: str) -> None:
        """Another is about to be begun: what was given before is over."""
        self._given.discard(name)

    def give(self, session: Session) -> None:
        """A client is given this one: it is the first, and no other is."""
        self._first[session.wish.session] = session.id
        self._given.add(session.wish.session)

    def unwanted(self, session: Session, first: Session | None, *, under_way: bool) -> Session | None:
        """Takes a sandbox in, as a node told of it; which of it and the first is to be ended: none, unless
        both live.

        first      what is known of the first of its name. under_way: one is being begun, of which nobody can
                   say yet whether it is one of these.
        """
        name = session.wish.session
        if first is None or first.id == session.id:
            self._first[name] = session.id
        elif name in self._given:
            return session if session.live else None
        elif not first.live and (session.live or session.began >= first.began):
            self._first[name] = session.id
        elif session.live and first.live and not under_way:
            older, younger = sorted((session, first), key=lambda each: (each.began, each.id))
            self._first[name] = older.id
            return younger
        return None

    def forget(self, session: Session) -> None:
        name = session.wish.session
        if self._first.get(name) == session.id:
            del self._first[name]
            self._given.discard(name)


class Turns:
    """One at a time of each name. A name is known as long as somebody has its turn, or waits for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[str, tuple[threading.Lock, int]] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._held

    def __len__(self) -> int:
        return len(self._held)

    @contextlib.contextmanager
    def of(self, name: str) -> Iterator[None]:
        with self._lock:
            turn, there = self._held.get(name, (threading.Lock(), 0))
            self._held[name] = turn, there + 1
        try:
            with turn:
                yield
        finally:
            with self._lock:
                there = self._held[name][1] - 1
                if there:
                    self._held[name] = turn, there
                else:
                    del self._held[name]
