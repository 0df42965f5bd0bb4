"""The answer to `GET /list`: as it is now, and no more of it written than has changed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec import structs

from runner.sandboxes import models
from runner.sandboxes.host import Counts
from runner.sandboxes.listing import Listing
from runner.sandboxes.nouns import Session
from tests.unit.parts_desk import wish

COUNTS = Counts(slots=4, free=2, waiting=0)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ids of the records that were made."""
    found: list[str] = []
    real = models.runtime

    def noted(session: Session, logs: str = "") -> dict[str, Any]:
        found.append(session.id)
        return real(session, logs)

    monkeypatch.setattr(models, "runtime", noted)
    return found


def test_what_changed_is_written_anew_and_nothing_else(written: list[str]) -> None:
    listing = Listing()
    sessions = [Session(id=f"{n:016x}", wish=wish(f"s{n}"), phase="ready", key="k") for n in range(3)]
    for _ in range(2):
        found = json.loads(listing.written(sessions, COUNTS))
        assert written == [each.id for each in sessions]
    assert models.Listed(**found).model_dump() == found
    assert [models.session(each).id for each in found["runtimes"]] == written
    sessions[1] = structs.replace(sessions[1], phase="paused", used=2.0)
    found = json.loads(listing.written(sessions[1:], COUNTS))
    assert written[3:] == [sessions[1].id]
    assert [(each["session_id"], each["status"], each["used"]) for each in found["runtimes"]] == [
        ("s1", "paused", 2.0), ("s2", "running", 0.0)
    ]  # fmt: skip
    assert (found["total"], found["slots"], found["free"], found["waiting"]) == (2, 4, 2, 0)


def test_what_is_no_unicode_keeps_nobody_from_the_list() -> None:
    odd = Session(id="0" * 16, wish=wish(), phase="ready", why="\udce4")
    (record,) = json.loads(Listing().written([odd], COUNTS))["runtimes"]
    assert record["why"] == "\udce4"
