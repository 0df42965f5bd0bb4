"""A host that keeps its sandboxes in memory: what the API's tests ask instead of an engine."""

from __future__ import annotations

import itertools
import threading
import time

from msgspec import structs

from kit.errors import BusyError, NotFoundError, UnsupportedError, UsageError
from runner.sandboxes.host import Counts, ImageFound
from runner.sandboxes.nouns import Session, Wish


class InMemory:
    """All that it is asked for is ready at once. `images`: those that there are; None: every one.

    held: while it is cleared, `stop` waits for it.
    """

    def __init__(self, slots: int = 6, images: set[str] | None = None, pauses: str | None = None) -> None:
        self.slots, self.images, self.pauses = slots, images, pauses
        self.known_: dict[str, Session] = {}
        self.names: dict[str, str] = {}
        self.held = threading.Event()
        self.held.set()
        self._lock = threading.RLock()
        self._ids = itertools.count(1)

    def start(self, wish: Wish) -> Session:
        with self._lock:
            there = self.find(wish.session)
            if there and there.live:
                if there.wish.image != wish.image:
                    raise UsageError(f"{wish.session} lives with another image")
                return there
            if wish.factor > self.slots:
                raise UnsupportedError(f"there are {self.slots} slots")
            if sum(each.slots for each in self.sessions()) + wish.factor > self.slots:
                raise BusyError("no slot is free", 7.2)
            id = f"{next(self._ids):016x}"
            found = self.images is None or wish.image in self.images
            now = time.time()
            self.names[wish.session] = id
            self.known_[id] = Session(
                id=id, wish=wish, phase="ready" if found else "failed", slots=wish.factor, key=f"key-{id}",
                why="" if found else f"there is no image {wish.image}",
                url=f"http://127.0.0.1:{20000 + len(self.known_)}",
                began=now, started=now, ready=now,
            )  # fmt: skip
            return self.known_[id]

    def find(self, session: str) -> Session | None:
        return self.known_.get(self.names.get(session, ""))

    def known(self, id: str) -> Session | None:
        return self.known_.get(id)

    def pause(self, id: str) -> Session:
        if self.pauses:
            raise UnsupportedError(self.pauses)
        return self._become(id, "paused")

    def resume(self, id: str) -> Session:
        return self._become(id, "ready")

    def stop(self, id: str) -> Session:
        self.held.wait(30)
        if (there := self.known(id)) and not there.live:
            return there
        return self._become(id, "stopped")

    def _become(self, id: str, phase: str) -> Session:
        with self._lock:
            there = self.known(id)
            if there is None or not there.live:
                raise NotFoundError(f"there is no sandbox {id}")
            self.known_[id] = structs.replace(there, phase=phase)
            return self.known_[id]

    def sessions(self) -> list[Session]:
        return [each for each in list(self.known_.values()) if each.live]

    def counts(self) -> Counts:
        taken = sum(each.slots for each in self.sessions())
        return Counts(slots=self.slots, free=self.slots - taken, waiting=0)

    def logs(self, id: str, lines: int = 100) -> str:
        if id not in self.known_:
            raise NotFoundError(f"there is no sandbox {id}")
        return "a line\nno Unicode: \udcff"

    def exists(self, image: str) -> ImageFound | None:
        if self.images is not None and image not in self.images:
            return None
        return ImageFound(size=5, uploaded="2026-01-02T03:04:05Z")
