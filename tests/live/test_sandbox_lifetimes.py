"""How a sandbox's life ends where no client ends it: by its lifetimes, by itself, by its server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.live.parts_sandbox_server import Server, asked, containers, gone, serving
from tests.live.parts_slurm_daemons import until

pytestmark = [pytest.mark.live, pytest.mark.timeout(240)]
SETTINGS: dict[str, Any] = {"engine": "podman", "slots": 4, "cpus": 1, "memory": 256}
IDLE = {"BEGIN": """sleep 0.2; echo '{"idle_time": 9999}' >/tmp/www/server_info"""}
"""A stand-in that says so; else it says that it was busy just now."""
SERVER = "$(/bin/busybox ps -o pid,args | grep '[h]ttpd -f' | cut -c1-5)"
DIES = {"BEGIN": f"echo these are my last words >/proc/1/fd/2; sleep 2; kill -9 {SERVER}"}


def ended(server: Server, session: str) -> dict[str, Any]:
    """What is told of it once it lives no more; it is not asked for by name before, which would be a use."""

    def there() -> bool:
        alive = server.ask("GET", "/list").good["runtimes"]
        return session not in [each["session_id"] for each in alive]

    until(there, f"the end of {session}", 90, server.said)
    return server.ask("GET", f"/sessions/{session}").good


def test_idle_and_dead_ones_end_and_are_told(private_storage: Path, standin: str, tmp_path: Path) -> None:
    """Each of its own cause; of the one that died with its log's end. Their slots are free again."""
    with serving(tmp_path / "state", **SETTINGS, idle=5) as server:
        urls = {name: server.start(name, standin, environment=each)["url"]
                for name, each in {"busy": {}, "idle": IDLE, "dies": DIES}.items()}  # fmt: skip
        died = ended(server, "dies")
        assert died["why"].startswith("its container ended: exit code"), (died["why"], died["pod_logs"])
        assert "these are my last words" in died["pod_logs"]
        idle = ended(server, "idle")
        assert (idle["phase"], idle["why"]) == ("stopped", "it was idle for 5 s")
        assert asked("GET", f"{urls['busy']}/alive").status == 200
        until(lambda: server.ask("GET", "/list").good["free"] == 3, "slots to be free", 30, server.said)
        assert len(containers()) == 1 and gone(urls["idle"]) and gone(urls["dies"])
        assert len(list((tmp_path / "state/sandboxes").iterdir())) == 1


def test_one_that_is_busy_ends_at_its_longest_time(
    private_storage: Path, standin: str, tmp_path: Path
) -> None:
    with serving(tmp_path / "state", **SETTINGS, idle=0, longest=6) as server:
        url = server.start("busy", standin)["url"]
        busy = ended(server, "busy")
        assert (busy["phase"], busy["why"]) == ("stopped", "it lived for 6 s, the longest that is allowed")
        until(lambda: server.ask("GET", "/list").good["free"] == 4, "all slots to be free", 30, server.said)
        assert containers() == [] and gone(url)
        assert list((tmp_path / "state/sandboxes").iterdir()) == []


def test_term_leaves_nothing_of_what_runs_waits_or_comes_up(
    private_storage: Path, standin: str, tmp_path: Path
) -> None:
    with serving(tmp_path / "state", **{**SETTINGS, "slots": 2}, queue=60) as server:
        found = {"runs": server.start("runs", standin)}
        server.ready("runs")
        found["comes"] = server.start("comes", standin, environment={"AFTER": "60"})
        found["waits"] = server.start("waits", standin)
        assert server.ask("GET", "/list").good["waiting"] == 1
        until(lambda: len(containers()) == 2, "two containers", 60, server.said)
    assert containers() == [] and all(gone(each["url"]) for each in found.values())
    assert list((tmp_path / "state/sandboxes").iterdir()) == []
    assert not (tmp_path / "state/server.json").exists()
