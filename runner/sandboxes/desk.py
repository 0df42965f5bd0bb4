"""The desk of one node: gives its slots to sandboxes, brings them up, and looks after them until they end."""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from msgspec import structs

from kit import share
from kit.errors import NotFoundError, SlipworksError, UnsupportedError, UsageError
from kit.say import say
from runner.agent_client import Agent
from runner.sandboxes import bringing, failures, held_port, reached, records, returning, slots
from runner.sandboxes.admission import Admission
from runner.sandboxes.backend import Backend
from runner.sandboxes.bringing import Asked, Node
from runner.sandboxes.host import Counts, ImageFound, Images, same_image
from runner.sandboxes.nouns import LIVE, Phase, Session, Wish
from runner.sandboxes.settings import Settings
from runner.sandboxes.table import Entry, Table
from runner.sandboxes.watch import Watch

GRACE = 10.0  # seconds between TERM and KILL
HASTE = 3.0  # the same when all are ended: Slurm may kill us half a minute after its own TERM
GONE = 30.0  # seconds that one who stops a sandbox waits for its end
LINES = 1000  # of a log that are kept


class Desk:
    """A `Host`. `recover` comes first, `close` last.

    folder      the state folder, which the caller holds (records.held): one server at a time may.
    processors  the numbers of those that sandboxes and the reserve share; None: all that this process has.
    memory      bytes that they share; None: what this process may have.
    agent       makes the client that asks an agent-server whether it is alive.
    """

    def __init__(
        self, backend: Backend, images: Images, settings: Settings, folder: Path, *,
        processors: Sequence[int] | None = None, memory: int | None = None,
        clock: Callable[[], float] = time.time,
        agent: Callable[[str, str], AbstractContextManager[Asked]] = Agent,
    ) -> None:  # fmt: skip
        numbers = slots.processors() if processors is None else processors
        bytes_ = share.memory() if memory is None else memory
        self._admission = Admission(slots.planned(numbers, bytes_, settings), settings.queue)
        self._table = Table(folder)
        self.node = Node(
            backend=backend, images=images, settings=settings, table=self._table,
            label=records.label(folder), address=reached.address(settings), clock=clock, agent=agent,
        )  # fmt: skip
        self.watch, self._theirs = Watch(self.node, self), False

    # What the API asks

    @property
    def pauses(self) -> str | None:
        return self.node.backend.pauses

    def start(self, wish: Wish) -> Session:
        with self._table.lock:
            found = self._table.named(wish.session)
            if found and found.session.live:
                return self._again(found, wish)
            self._admission.possible(wish.factor)
            entry = self._begun(wish)
        if entry.session.phase == "queued":  # what is starting is saved by its thread
            self._table.note(entry)
        return entry.session

    def find(self, session: str) -> Session | None:
        entry = self._table.named(session)
        return self._used(entry) if entry else None

    def known(self, id: str) -> Session | None:
        entry = self._table.get(id)
        return self._used(entry) if entry else None

    def pause(self, id: str) -> Session:
        return self._turned(id, "ready", "paused")

    def resume(self, id: str) -> Session:
        return self._turned(id, "paused", "ready")

    def stop(self, id: str) -> Session:
        entry = self._table.one(id)
        self.end(entry, "stopped")
        entry.cleared(GONE)
        return entry.session

    def sessions(self) -> list[Session]:
        return [each.session for each in self._table.live()]

    def counts(self) -> Counts:
        return self._admission.counts()

    def logs(self, id: str, lines: int = 100) -> str:
        entry, folder = self._table.one(id), self._table.folder
        contained = bool(entry.session.engine) and not entry.gone.is_set()
        text = records.log(folder, id)
        if contained and not text:
            try:
                return self.node.backend.logs(id, lines)
            except SlipworksError:
                text = records.log(folder, id)
                if not text:
                    raise  # else its container went meanwhile, and what it wrote was kept before that
        return "".join(text.splitlines(keepends=True)[-lines:]) if lines > 0 else ""

    def exists(self, image: str) -> ImageFound | None:
        return self.node.images.exists(image)

    # From the beginning to the end

    def recover(self) -> None:
        """Gets the sandboxes of a server before this one back, and begins to look after all. Where that fails
        they go on, and so they do after `close`."""
        self._theirs = True
        returning.recovered(self.node, self)
        self._theirs = False
        self.watch.begin()

    def close(self) -> None:
        """Ends every sandbox: nothing of this state folder's is left in the engine. Idempotent."""
        with self._table.lock:
            first, self._admission.closed = not self._admission.closed, True
        if first:
            self.watch.close()
            self.node.images.close()
            if not self._theirs:
                returning.emptied(self.node, self, HASTE)

    def adopt(self, entry: Entry, *, bring: bool) -> None:
        """One of a server before this one: bring: its server is awaited."""
        session = entry.session
        with self._table.lock:
            self._table.add(entry)
            self._admission.adopt(session.id, session.slots, session.cpus)
            if bring:
                self._thread(entry, bringing.awaited)

    def queue(self, entry: Entry) -> None:
        """Puts one at the end of the line, and gives it slots where it is the first and they are free."""
        with self._table.lock:
            self._table.add(entry)
            self._admission.wait(entry.session.id, entry.session.slots, self.node.clock())
            self._next()

    def end(self, entry: Entry, phase: Phase, why: str = "", grace: float = GRACE) -> None:
        """Ends one that lives; else nothing. It is gone when this returns, unless its engine is just starting
        its container, which the thread that waits for it clears away then, or an engine fails, which is tried
        again. One that was started waits for nothing: its thread may be held by what the sandbox answers."""
        with self._table.lock:
            contained = bool(entry.session.engine)
            wish = structs.replace(entry.session.wish, env={})  # it may hold secrets
            now = self.node.clock()
            if not self._table.change(entry, LIVE, phase=phase, why=why, ended=now, wish=wish):
                return
            self._admission.leave(entry.session.id)
            entry.ending.set()
            if entry.bringing and contained and not entry.entered:
                return
        self.clear(entry, grace)

    def clear(self, entry: Entry, grace: float = GRACE) -> None:
        """Removes what is left of one that ended, and gives its slots to the next. Idempotent."""
        with self._table.lock:
            if entry.clearing:
                return
            entry.clearing = True
        session = entry.session
        if entry.port:
            entry.port.release()
        try:
            self._removed(entry, grace)
        except Exception as failure:
            told = isinstance(failure, (SlipworksError, OSError))
            why = f"{failure}" if told else traceback.format_exc()
            say(f"error: sandbox {session.id} could not be removed, which is tried again: {why}")
            entry.clearing, entry.stuck = False, True
            return
        with self._table.lock:
            lasted = session.ended - session.admitted if session.admitted else None
            self._admission.give(session.id, lasted)
            self._next()
        self._table.note(entry)
        entry.gone.set()

    def late(self, now: float) -> None:
        """Fails those who waited for too long."""
        with self._table.lock:
            late = self._admission.late(now)
        for id in late:
            self.end(self._table.one(id), "failed", f"no slot was free in {self.node.settings.queue:g} s")

    # Parts of these

    def _again(self, found: Entry, wish: Wish) -> Session:
        same_image(found.session, wish)
        return self._used(found)

    def _begun(self, wish: Wish) -> Entry:
        now, id = self.node.clock(), secrets.token_hex(8)
        cpus = self._admission.asked(id, wish.factor, now)
        try:
            port = held_port.hold(self.node.address, self._table.ports())
        except BaseException:
            self._admission.give(id, None)
            raise
        entry = Entry(Session(
            id=id, wish=wish, slots=wish.factor, key=secrets.token_hex(32), began=now, used=now,
            url=f"http://{self.node.address}:{port.number}",
        ), port)  # fmt: skip
        if cpus is None:
            self.queue(entry)
        else:
            self._table.add(entry)
            self._admit(entry, cpus)
        return entry

    def _next(self) -> None:
        """Gives free slots to those who wait, as long as there are enough for the first."""
        while found := self._admission.next():
            self._admit(self._table.one(found[0]), found[1])

    def _admit(self, entry: Entry, cpus: tuple[int, ...]) -> None:
        self._table.change(entry, phase="starting", cpus=cpus, admitted=self.node.clock())
        self._thread(entry, bringing.brought)

    def _thread(self, entry: Entry, work: Callable[[Node, Entry], None]) -> None:
        entry.bringing = True
        try:
            threading.Thread(target=self._bring, args=(entry, work), daemon=True).start()
        except RuntimeError as refused:  # as many as this user may have
            entry.bringing, entry.unbegun = False, f"the server could not look after it: {refused}"

    def _bring(self, entry: Entry, work: Callable[[Node, Entry], None]) -> None:
        failure: SlipworksError | None = None
        try:
            self._table.save(entry)
            work(self.node, entry)
        except SlipworksError as foreseen:
            failure = foreseen
        except Exception as unforeseen:
            say(traceback.format_exc())
            failure = SlipworksError(f"{type(unforeseen).__name__}: {unforeseen}")
        with self._table.lock:
            entry.bringing = False
            if failure is None:
                now = self.node.clock()
                self._table.change(entry, ("starting",), phase="ready", ready=now, used=now)
        if failure:
            entry.told = failure.message
            self.end(entry, "failed", failures.told(self.node, entry, failure.message))
        if entry.session.live:
            self._table.note(entry)
        else:
            self.clear(entry)

    def _turned(self, id: str, before: Phase, after: Phase) -> Session:
        """Pauses or resumes it, if it is not so already."""
        entry = self._table.one(id)
        if self.pauses:
            raise UnsupportedError(self.pauses)
        with entry.turn:
            if entry.session.phase == before:
                (self.node.backend.pause if after == "paused" else self.node.backend.resume)(id)
                self._table.change(entry, (before,), phase=after)
                self._table.note(entry)
            if not entry.session.live:
                raise NotFoundError(f"the sandbox {id} is {entry.session.phase}", "runner sandbox list")
            if entry.session.phase != after:
                raise UsageError(f"the sandbox {id} is {entry.session.phase}: it cannot be {after} yet")
            return self._used(entry)

    def _used(self, entry: Entry) -> Session:
        session = entry.session
        if session.live:
            return self._table.change(entry, used=self.node.clock()) or entry.session
        return session

    def _removed(self, entry: Entry, grace: float) -> None:
        session, folder = entry.session, self._table.folder
        text = entry.told
        if session.engine:
            with contextlib.suppress(SlipworksError):
                text = self.node.backend.logs(session.id, LINES) or text
        if text:
            records.keep_log(folder, session.id, text)
        if session.engine:
            self.node.backend.stop(session.id, grace)
            records.clear(folder, session.id)
