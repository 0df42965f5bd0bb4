"""What a sandbox has of its node: as many slots as it asked for, and nothing of what is in reserve."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.live.needs import need
from tests.live.parts_sandbox_server import Server, serving, told, wish
from tests.live.parts_slurm_daemons import until

pytestmark = [pytest.mark.live, pytest.mark.timeout(240)]
SETTINGS: dict[str, Any] = {"engine": "podman", "cpus": 1, "memory": 128}
EATS = {"BEGIN": "dd if=/dev/zero of=/dev/null bs=160M count=1 && echo had"}
"""More memory than a slot has, and less than two."""


def keeps_to(server: Server, session: str, processors: set[int]) -> None:
    """All that runs in a sandbox, which is known by its key."""
    key = server.ready(session)["session_api_key"].encode()

    def allowed() -> list[set[int]]:
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            try:
                if key in (place / "environ").read_bytes():
                    found.append(os.sched_getaffinity(int(place.name)))
            except OSError:  # it has ended
                continue
        return found

    until(lambda: bool(seen := allowed()) and all(each == processors for each in seen),
          f"it to keep to {processors}", 30, lambda: str(allowed()))  # fmt: skip


def test_one_of_two_slots_has_both_and_no_other_fits(
    private_storage: Path, standin: str, tmp_path: Path
) -> None:
    both = set(sorted(os.sched_getaffinity(0))[:2])
    need(len(both) == 2, "there is one processor")
    with serving(tmp_path / "state", **SETTINGS, slots=2) as server:
        found = server.start("wide", standin, environment=EATS, resource_factor=2)
        keeps_to(server, "wide", both)
        assert "had" in told(found["url"], "told").split()
        assert server.ask("GET", "/list").good["free"] == 0
        third = server.ask("POST", "/start", wish("third", standin))
        assert third.status == 429 and float(third.headers["Retry-After"]) > 0
        never = server.ask("POST", "/start", wish("never", standin, resource_factor=4))
        assert never.status == 501 and b"resource_factor 4" in never.raw, never.raw


def test_what_is_in_reserve_no_sandbox_has(private_storage: Path, standin: str, tmp_path: Path) -> None:
    own = sorted(os.sched_getaffinity(0))
    need(len(own) > 1, "there is one processor")
    with serving(tmp_path / "state", **SETTINGS, reserve=len(own) - 1) as server:
        held = server.ask("GET", "/health").good["limits"]["memory"] == "cgroup"
        found = server.start("narrow", standin, environment=EATS if held else {})
        keeps_to(server, "narrow", {own[-1]})
        assert not held or "had" not in told(found["url"], "told").split()
        assert server.ask("GET", "/list").good["slots"] == 1
