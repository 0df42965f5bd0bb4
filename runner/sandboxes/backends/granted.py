"""How far a host goes along with an engine's sandboxes: found out by the first, and kept once one has begun.

What it refused is then no longer asked for; what a container of ours had, all later ones have, too.
"""

from __future__ import annotations

import threading
from typing import Any

from msgspec import structs

from kit import say
from runner.sandboxes.backends import inspected, refusals
from runner.sandboxes.backends.container_words import Where


class Granted:
    """A network of its own, and control groups for limits. Any thread may call it."""

    def __init__(self, engine: str, *, own: bool) -> None:
        self.own = own
        self._engine = engine
        self._groups = True
        self._proved: set[str] = set()  # "own", "groups": that a container of ours had it here
        self._settling = threading.Lock()

    def asked(self, folder: bool = False) -> Where:
        """What the next container asks for."""
        return Where(own=self.own, groups=self._groups, folder=folder)

    def settled(self, where: Where, told: dict[str, Any]) -> bool:
        """Keeps what a container began with, by what `inspect` told of it. False of one that has less than
        another one had."""
        had = {"own"} if where.own and inspected.published(told) else set()
        had |= {"groups"} if where.groups else set()
        with self._settling:
            if ("own" in self._proved and not where.own) or ("groups" in self._proved and not where.groups):
                return False
            self._proved |= had
            self.own = "own" in self._proved or (self.own and where.own)
            self._groups = "groups" in self._proved or (self._groups and where.groups)
            return True

    def other(self, where: Where, told: str, *, controlled: bool, workdir: bool) -> Where | None:
        """What to ask for instead, where the engine refused for a reason that can be lived with: while no
        container of ours had it yet. Later it is an error of the moment.

        controlled: the engine knows control groups here. workdir: a folder to start in was asked for.
        """
        if (
            where.own
            and "own" not in self._proved
            and refusals.NO_NETWORK.search(told)
            and not refusals.TAKEN.search(told)
        ):
            say.once(f"note: {self._engine} gives no network of its own here, sandboxes share the host's: "
                     f"{refusals.line(told)}")  # fmt: skip
            return structs.replace(where, own=False)
        no_groups = where.groups and "groups" not in self._proved and refusals.NO_GROUPS.search(told)
        if no_groups and controlled:
            say.once(
                f"note: {self._engine} has no control groups here, limits are watched: {refusals.line(told)}"
            )
            return structs.replace(where, groups=False)
        if workdir and not where.folder and refusals.NO_FOLDER.search(told):
            return structs.replace(where, folder=True)
        return None
