"""What a desk finds when it begins, of a server that was killed; and that it leaves nothing when it ends."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from msgspec import structs

from kit.errors import SlipworksError, UsageError
from kit.say import say
from runner.sandboxes import failures, held_port, records
from runner.sandboxes.backend import State
from runner.sandboxes.bringing import Node, limits
from runner.sandboxes.nouns import Phase, Session
from runner.sandboxes.table import Entry

HANDS = 16  # containers that are ended at once
BROUGHT = 60.0  # seconds, at the end, for containers that are just being started


class Takes(Protocol):
    """What a desk does with what is found."""

    def adopt(self, entry: Entry, *, bring: bool) -> None: ...

    def queue(self, entry: Entry) -> None: ...

    def end(self, entry: Entry, phase: Phase, why: str = "", grace: float = 10.0) -> None: ...


def recovered(node: Node, desk: Takes) -> None:
    """Sandboxes whose container runs go on, at the address and with the key that their clients know. One that
    had none yet is begun again; one whose container is gone has failed. Containers without a session are
    ended."""
    sessions = records.read(node.table.folder)
    _same_engine(node, sessions)
    states = node.backend.states(node.label)
    living = {each.id for each in sessions if each.live}
    _each(node, [id for id in states if id not in living], 10.0)
    for session in sessions:
        if session.live:
            _returned(node, desk, session, states.get(session.id))
        else:
            _remembered(node, session)
    if living:
        counted = sum(each.session.phase != "queued" for each in node.table.live())
        say(f"{counted} sandboxes of a server before this one were found, of {len(living)}")


def _same_engine(node: Node, sessions: list[Session]) -> None:
    """Another engine's containers would run on, and nobody would know of them."""
    others = {each.engine for each in sessions if each.live and each.engine} - {node.backend.name}
    if others:
        raise UsageError(
            f"{node.table.folder} has sandboxes by {min(others)}, and this server would start them by "
            f"{node.backend.name}",
            f"runner sandbox serve --engine {min(others)}; or another folder: --state FOLDER",
        )


def _returned(node: Node, desk: Takes, session: Session, state: State | None) -> None:
    if state is None and not session.engine:  # it waited, for a slot or an image
        _begun_again(node, desk, session)
        return
    entry = Entry(structs.replace(session, phase="starting") if state == "running" else session)
    entry.entered = True
    desk.adopt(entry, bring=state == "running")
    if state in ("running", "paused"):
        _adopted(node, desk, entry, paused=state == "paused")
    elif state is None:
        desk.end(entry, "failed", "it was lost: no server looked after it, and its container is gone")
    else:
        desk.end(entry, "failed", failures.ended(node, entry))


def _adopted(node: Node, desk: Takes, entry: Entry, *, paused: bool) -> None:
    id, folder = entry.session.id, records.own_folder(node.table.folder, entry.session.id)
    try:
        node.backend.adopt(id, limits(entry.session, node.settings), str(folder))
    except SlipworksError as failure:
        desk.end(entry, "failed", failures.told(node, entry, f"it cannot be watched: {failure.message}"))
    if paused:
        node.table.change(entry, phase="paused")


def _begun_again(node: Node, desk: Takes, session: Session) -> None:
    """Its client knows its port: that one, or else it has failed."""
    again = Entry(structs.replace(session, phase="queued", cpus=(), admitted=0.0))
    again.port = held_port.again(node.address, session.port)
    if again.port and session.url.startswith(f"http://{node.address}:"):
        desk.queue(again)
    else:
        desk.adopt(again, bring=False)
        desk.end(again, "failed", "it was lost: the server ended, and its port is another's now")


def _remembered(node: Node, session: Session) -> None:
    entry = Entry(session)
    entry.saved = session
    entry.gone.set()
    records.clear(node.table.folder, session.id)
    node.table.add(entry)


def emptied(node: Node, desk: Takes, grace: float) -> None:
    """Ends every session, and then every container that is still there."""
    live = node.table.live()

    def end(entry: Entry) -> None:
        desk.end(entry, "stopped", "the server ended", grace)
        entry.cleared(BROUGHT)

    _at_once(end, live)
    try:
        _each(node, node.backend.states(node.label), grace)
    except SlipworksError as failure:
        say(f"error: it is not known whether a sandbox is left: {failure.message}")


def _each(node: Node, ids: Iterable[str], grace: float) -> None:
    """Ends containers that nobody asks for."""
    _at_once(lambda id: unclaimed(node, id, grace), list(ids))


def unclaimed(node: Node, id: str, grace: float = 10.0) -> None:
    """Ends a container that nobody asks for."""
    try:
        node.backend.stop(id, grace)
        records.clear(node.table.folder, id)
    except SlipworksError as failure:
        say(f"error: sandbox {id}, which no session has, could not be removed: {failure.message}")


def _at_once(work: Callable[..., None], items: list[Entry] | list[str]) -> None:
    """What nobody foresaw of one keeps no other from its end."""

    def done(item: Entry | str) -> None:
        try:
            work(item)
        except Exception:
            say(traceback.format_exc())

    if items:
        with ThreadPoolExecutor(HANDS) as hands:
            list(hands.map(done, items))
