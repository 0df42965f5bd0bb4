"""The answer to `GET /list`: of a thousand sandboxes only those that have changed are written anew."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Raw, json

from runner.sandboxes import models, problems
from runner.sandboxes.host import Counts
from runner.sandboxes.nouns import Session


class Listing:
    """Any thread may ask it. A session that changed is another object."""

    def __init__(self) -> None:
        self._made: dict[str, tuple[Session, Raw]] = {}

    def written(self, sessions: Sequence[Session], counts: Counts) -> bytes:
        """As `models.Listed` says."""
        before = self._made
        self._made = made = {each.id: _record(each, before.get(each.id)) for each in sessions}
        return json.encode(models.listed([raw for _, raw in made.values()], counts))


def _record(session: Session, before: tuple[Session, Raw] | None) -> tuple[Session, Raw]:
    if before and before[0] is session:
        return before
    return session, Raw(problems.encoded(models.runtime(session)))
