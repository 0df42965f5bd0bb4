"""The front of several nodes: one address for the sandbox servers of all of them, placing by free slots.

It keeps nothing on disk: what there is, its nodes' servers know, and are asked when it begins and all the
time. A node that gives no answer has its sandboxes failed, the others go on; one that comes back is believed,
but for what was meanwhile stopped, or begun again elsewhere: that is ended there. What a client was given is
never ended for another of its name (front_names.py).
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from msgspec import structs

from kit.errors import (
    BusyError,
    LaunchError,
    NetworkError,
    NotFoundError,
    SlipworksError,
    UnsupportedError,
)
from kit.say import say
from runner.sandboxes import models
from runner.sandboxes.client import Client
from runner.sandboxes.front_names import Names, Turns
from runner.sandboxes.front_node import Node
from runner.sandboxes.host import Counts, ImageFound, same_image
from runner.sandboxes.nouns import Session, Wish

PACE = 0.5  # seconds between two looks at a node
HASTE = 1.0  # seconds for the looks under way, when it ends
REMEMBERED = 10_000  # sandboxes that have ended, of which is known where they were


class Front:
    """A `Host`. `begin` comes first, `close` last; the nodes' servers, and their sandboxes, outlive it.

    silence  seconds after which a node that gives no answer has lost its sandboxes.
    """

    pauses = None  # each node says so itself

    def __init__(
        self, urls: Sequence[str], key: str, *, silence: float = 20.0, client: Callable[..., Client] = Client
    ) -> None:
        self._nodes = [Node(url, partial(client, key=key), silence) for url in urls]
        self._lock = threading.RLock()
        self._known: dict[str, tuple[Node, Session]] = {}  # by id
        self._names, self._turns = Names(), Turns()
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []

    # What the API asks

    def start(self, wish: Wish) -> Session:
        with self._turns.of(wish.session):
            found = self.find(wish.session)
            if not found or not found.live:
                return self._begun(wish)
            same_image(found, wish)
            with self._lock:
                self._names.give(found)
            return found

    def find(self, session: str) -> Session | None:
        return self.known(self._names.get(session))

    def known(self, id: str) -> Session | None:
        """As its node tells it, which so hears that it is used; as it was last, where that is silent."""
        place = self._known.get(id)
        if place is None:
            return None
        node, session = place
        if session.live and node.answers:
            try:
                return self._told(node, node.ask("GET", f"/runtime/{id}"))
            except NetworkError:
                pass
            except NotFoundError:
                self._lost(node, session, "its node knows no such sandbox any more")
        return self._known[id][1]

    def pause(self, id: str) -> Session:
        return self._asked(id, "/pause")

    def resume(self, id: str) -> Session:
        return self._asked(id, "/resume")

    def stop(self, id: str) -> Session:
        node, session = self._place(id)
        if not session.live:
            if not node.answers:  # it may live, and is ended as soon as its node is back
                node.unwanted.add(id)
            return session
        try:
            return self._asked(id, "/stop")
        except NetworkError:
            if node.answers:
                raise
        return self._lost(node, session, "", "stopped")

    def sessions(self) -> list[Session]:
        with self._lock:
            live = [session for _, session in self._known.values() if session.live]
        return sorted(live, key=lambda each: (each.began, each.id))

    def counts(self) -> Counts:
        there = [each for each in self._nodes if each.answers]
        return Counts(
            slots=sum(each.slots for each in there),
            free=sum(each.free for each in there),
            waiting=sum(each.waiting for each in there),
        )

    def logs(self, id: str, lines: int = 100) -> str:
        """Of one that failed: a server tells of no other."""
        text = str(self._place(id)[0].ask("GET", f"/runtime/{id}").get("pod_logs", ""))
        return "\n".join(text.splitlines()[-lines:])

    def exists(self, image: str) -> ImageFound | None:
        failure: SlipworksError = NetworkError("no node of this server answers")
        for node in self._best():
            try:
                found = node.ask("GET", "/image_exists", image=image)
            except NetworkError as silent:
                failure = silent
                continue
            about = found.get("image") or {}
            return ImageFound(
                size=about.get("image_size_bytes", 0), uploaded=about.get("upload_time", "")
            ) if found.get("exists") else None  # fmt: skip
        raise failure

    # From the beginning to the end

    def begin(self) -> None:
        """Asks every node what it has, once; then looks at each all the time. LaunchError if none answers."""
        looks = [threading.Thread(target=self._look, args=(each,), daemon=True) for each in self._nodes]
        for each in looks:
            each.start()
        for each in looks:
            each.join()
        if not any(each.answers for each in self._nodes):
            told = "; ".join(each.why for each in self._nodes)
            raise LaunchError(f"no node for sandboxes answers: {told}", "runner sandbox serve --front URL …")
        for node in self._nodes:
            thread = threading.Thread(target=self._watch, args=(node,), daemon=True)
            thread.start()
            self._threads.append(thread)

    def close(self) -> None:
        """Idempotent. It does not wait for a node that is silent."""
        self._over.set()
        for each in self._threads:
            each.join(HASTE)
        if not any(each.is_alive() for each in self._threads):
            for node in self._nodes:
                node.close()

    # Placing

    def _begun(self, wish: Wish) -> Session:
        """On the node with the most room; on the next where that has none after all."""
        failures: list[SlipworksError] = []
        with self._lock:
            self._names.anew(wish.session)
        for node in self._best():
            try:
                self._rid(node, wish.session)
                with node.sending(wish.factor):
                    record = node.ask("POST", "/start", models.body(wish))
                return self._given(node, record)
            except (BusyError, NetworkError, UnsupportedError) as failure:
                failures.append(failure)
        raise self._why_not(failures)

    def _rid(self, node: Node, name: str) -> None:
        """Ends what is unwanted of a name: the node would give it as the session, and it would be ended."""
        with self._lock:
            known = [self._known[id][1] for id in node.unwanted if id in self._known]
        for id in [each.id for each in known if each.wish.session == name]:
            with contextlib.suppress(NotFoundError):
                self._told(node, node.ask("POST", "/stop", {"runtime_id": id}))

    def _given(self, node: Node, record: dict[str, Any]) -> Session:
        with self._lock:
            session = self._told(node, record)
            self._names.give(session)
        return session

    def _best(self) -> list[Node]:
        return sorted((each for each in self._nodes if each.answers), key=lambda each: -each.room())

    def _why_not(self, failures: Iterable[SlipworksError]) -> SlipworksError:
        """One that is told for all: what passes by itself goes before what does not."""
        busy = [each for each in failures if isinstance(each, BusyError)]
        if busy:
            return min(busy, key=lambda each: each.seconds)
        return next(iter(failures), None) or NetworkError("no node of this server answers")

    def _asked(self, id: str, path: str) -> Session:
        node, _ = self._place(id)
        return self._told(node, node.ask("POST", path, {"runtime_id": id}))

    def _place(self, id: str) -> tuple[Node, Session]:
        if id not in self._known:
            raise NotFoundError(f"there is no sandbox {id}")
        return self._known[id]

    # What is known

    def _told(self, node: Node, record: dict[str, Any]) -> Session:
        """Remembers what a node says of a sandbox; and which one is to be ended, where two of a name live."""
        session = models.session(record)
        name = session.wish.session
        with self._lock:
            self._known[session.id] = node, session
            at, first = self._known.get(self._names.get(name), (node, None))
            unwanted = self._names.unwanted(session, first, under_way=name in self._turns)
            if unwanted:
                (node if unwanted is session else at).unwanted.add(unwanted.id)
        return session

    def _lost(self, node: Node, session: Session, why: str, phase: str = "failed") -> Session:
        with self._lock:
            ended = structs.replace(session, phase=phase, why=why, ended=time.time())
            self._known[session.id] = node, ended
            if phase == "stopped":
                node.unwanted.add(session.id)
        return ended

    def _watch(self, node: Node) -> None:
        while not self._over.wait(PACE):
            self._look(node)

    def _look(self, node: Node) -> None:
        """What a node has now; where it is silent for too long, that it has nothing."""
        before, unwanted = node.answers, set(node.unwanted)
        try:
            found = node.look()
        except SlipworksError as failure:
            node.why = failure.message
            if before and not node.answers:
                say(f"error: {node.url} is given up: {failure.message}")
                self._dead(node, failure.message)
            return
        if not before:
            say(f"{node.url} answers: {node.slots} slots")
        self._merge(node, found)
        with self._lock:  # what was not there any more, though it was unwanted before this look
            node.unwanted -= unwanted - {str(each["runtime_id"]) for each in found}

    def _merge(self, node: Node, records: list[dict[str, Any]]) -> None:
        """What a node has is believed, but for what is wanted no more: that is ended."""
        listed = {str(each["runtime_id"]) for each in records}
        with self._lock:
            for each in records:
                if each["runtime_id"] not in node.unwanted:
                    self._told(node, each)
            ends = sorted(listed & node.unwanted)
            missing = [each for at, each in self._known.values()
                       if at is node and each.live and each.id not in listed]  # fmt: skip
        for session in missing:  # it has ended, or is newer than this look
            self._asked_of(node, session)
        for id in ends:
            try:
                self._told(node, node.ask("POST", "/stop", {"runtime_id": id}))
            except SlipworksError as failure:  # the next look has it again
                say(f"error: sandbox {id} of {node.url} could not be ended: {failure.message}")
        self._forget()

    def _asked_of(self, node: Node, session: Session) -> None:
        try:
            self._told(node, node.ask("GET", f"/runtime/{session.id}"))
        except NotFoundError:
            self._lost(node, session, "its node knows no such sandbox any more")
        except SlipworksError:
            pass  # it is asked again at the next look

    def _dead(self, node: Node, why: str) -> None:
        with self._lock:
            lost = [each for at, each in self._known.values() if at is node and each.live]
        for session in lost:
            self._lost(node, session, f"its node is silent: {why}")

    def _forget(self) -> None:
        """The oldest of those that have ended, where they are very many."""
        with self._lock:
            if len(self._known) <= REMEMBERED:
                return
            ended = [each for _, each in self._known.values() if not each.live]
            for session in sorted(ended, key=lambda each: each.began)[: len(self._known) - REMEMBERED]:
                del self._known[session.id]
                self._names.forget(session)
