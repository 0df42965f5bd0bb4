"""One sandbox on its way from a slot to a server that is alive."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from kit.errors import VerifyError
from runner.sandboxes import records
from runner.sandboxes.backend import Backend
from runner.sandboxes.host import Images
from runner.sandboxes.nouns import KEY, Limits, Ready, Session, Start
from runner.sandboxes.settings import Settings
from runner.sandboxes.table import Entry, Table

POLL = 0.05  # seconds between two questions to a server that comes up


class Asked(Protocol):
    """What is asked of an agent-server: agent_client.Agent is one."""

    def alive(self) -> bool: ...

    def idle(self) -> float | None:
        """Seconds since it was last busy; None where it does not say."""


class Node(Struct, frozen=True, kw_only=True):
    """What the parts of a desk share. agent: a client of the server with that URL and that key."""

    backend: Backend
    images: Images
    settings: Settings
    table: Table
    label: str
    address: str
    clock: Callable[[], float]
    agent: Callable[[str, str], AbstractContextManager[Asked]]


def brought(node: Node, entry: Entry) -> None:
    """Returns once its server is alive, or it was ended meanwhile; a SlipworksError says why it will not be.

    Before a container may be there its record says so: whoever comes after us looks for it.
    """
    image = node.images.ready(entry.session.wish)
    begun = node.table.change(entry, ("starting",), engine=node.backend.name, started=node.clock())
    if begun is None:
        return
    node.table.save(entry)
    if entry.port:
        entry.port.release()
    url = node.backend.start(
        start_of(begun, image, node.settings, node.address, node.table.folder, node.label)
    )
    entry.entered = True
    node.table.change(entry, ("starting",), url=url)
    awaited(node, entry)


def awaited(node: Node, entry: Entry) -> None:
    """Returns once its server is alive, or it was ended meanwhile. VerifyError when it is not in time."""
    session, within = entry.session, node.settings.start_within
    end = time.monotonic() + within
    with node.agent(session.url, session.key) as agent:
        while not entry.ending.is_set():
            if agent.alive():
                return
            if time.monotonic() > end:
                raise VerifyError(f"its server was not alive after {within:g} s")
            entry.ending.wait(POLL)


def start_of(
    session: Session, image: Ready, settings: Settings, address: str, folder: Path, label: str
) -> Start:
    """Of a session in a state folder with a label.

    All that the client's variables hold stays out of every argv: clients forward keys of their own.
    """
    return Start(
        id=session.id, name=session.name, state=label, image=image,
        workdir=session.wish.workdir, secret={**session.wish.env, KEY: session.key},
        limits=limits(session, settings), address=address, port=session.port,
        folder=str(records.own_folder(folder, session.id)),
    )  # fmt: skip


def limits(session: Session, settings: Settings) -> Limits:
    """What a session may have."""
    memory = (settings.memory << 20) * session.slots
    return Limits(cpus=session.cpus, memory=memory, pids=settings.pids, disk=settings.disk << 20)
