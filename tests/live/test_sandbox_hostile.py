"""Sandboxes that mean harm to the node, to the server or to each other."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.live.parts_sandbox_harm import BOMB
from tests.live.parts_sandbox_server import Server, asked, gone, serving, serving_apptainer, told
from tests.live.parts_slurm_daemons import until
from tests.live.parts_users import User

pytestmark = [pytest.mark.live, pytest.mark.timeout(300)]
PIDS = 60
FILL = "for n in $(seq 60); do dd if=/dev/zero of=/tmp/fill.$n bs=1M count=16 || exit; sleep 0.2; done"
SPY = "; ".join(
    [
        "cat /proc/*/environ /proc/*/cmdline | tr '\\0' '\\n'",
        "ls -laR /root /home /run {state}",
        "find / -type f -size -64k >/tmp/files",
        "grep -v -e ^/proc/ -e ^/sys/ -e ^/tmp/ /tmp/files | xargs cat",
        "for each in /proc/[0-9]*; do cat $each/root{state}/key; done",
        "wget -T 5 -q -O - {url}/list",
        "echo THE END",
    ]
)


@pytest.fixture(params=["podman", "apptainer"])
def strict(
    request: pytest.FixtureRequest, private_storage: Path, ordinary_user: User, tmp_path: Path
) -> Iterator[Server]:
    settings: dict[str, Any] = {"slots": 4, "cpus": 1, "memory": 256, "pids": PIDS, "disk": 100}
    if request.param == "podman":
        serves = serving(tmp_path / "state", engine="podman", **settings)
    else:
        serves = serving_apptainer(ordinary_user, "hostile", **settings)
    with serves as server:
        yield server


def processes(sandbox: dict[str, Any]) -> int:
    """Of a sandbox: by its session's key, which all of them have."""
    found = 0
    for environment in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            found += sandbox["session_api_key"].encode() in environment.read_bytes()
    return found


def ended(server: Server, session: str, why: str) -> bool:
    found = server.ask("GET", f"/sessions/{session}").good
    assert found["phase"] != "failed" or why in found["why"], found
    return bool(found["phase"] == "failed")


def test_sandboxes_that_mean_harm_do_none(strict: Server, standin: str) -> None:
    others = strict.start("neighbour", standin)
    strict.ready("neighbour")
    spy = strict.start("spy", standin, environment={"BEGIN": SPY.format(state=strict.state, url=strict.url)})
    strict.ready("spy")
    found = told(spy["url"], "told")
    assert "OH_SESSION_API_KEYS_0=" + spy["session_api_key"] in found and "THE END" in found
    for secret in (strict.key, others["session_api_key"]):
        assert secret not in found
    fill = strict.start("fill", standin, environment={"BEGIN": FILL})
    until(lambda: ended(strict, "fill", "disk"), "what fills the disk to fail", 60, strict.said)
    until(lambda: gone(fill["url"]), "the end of what filled the disk", 30)
    # A little later than the stand-in's own processes, which it would keep from beginning.
    bomb = strict.start("bomb", standin, environment={"BEGIN": f"sleep 1; {BOMB}"})
    held = strict.ask("GET", "/health").good["limits"]["pids"] != "watched"
    most: list[int] = []

    def full() -> bool:
        most.append(processes(bomb))
        assert asked("GET", f"{others['url']}/alive", timeout=30.0).status == 200
        return most[-1] > PIDS / 2 if held else ended(strict, "bomb", "processes")

    until(full, "the bomb to be held, or ended", 60, strict.said)
    assert max(most) <= PIDS or not held
    strict.stop(bomb["runtime_id"])
    until(lambda: processes(bomb) == 0, "the end of the bomb", 30, lambda: str(processes(bomb)))
    assert strict.ask("GET", "/sessions/neighbour").good["pod_status"] == "ready"
