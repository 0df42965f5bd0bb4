"""The sandbox server with many clients at once, more than it has slots for; and killed, and begun again."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.live.parts_sandbox_server import Server, asked, containers, gone, serving, wish
from tests.live.parts_slurm_daemons import until

pytestmark = [pytest.mark.live, pytest.mark.timeout(600)]
SLOTS, MANY = 6, 64


def served(server: Server, session: str, image: str, refused: list[float]) -> str:
    """A sandbox that is asked for until there is one, found to be alive, and given back; its URL."""
    while True:
        answer = server.ask("POST", "/start", wish(session, image))
        if answer.status != 429:
            break
        refused.append(float(answer.headers["Retry-After"]))
        assert 0 < refused[-1] <= 60
        time.sleep(refused[-1])  # as it is told
    found = answer.good
    while server.ask("GET", f"/sessions/{session}").good["phase"] == "queued":
        time.sleep(0.5)  # 64 who asked 20 times a second would measure nothing but that
    server.ready(session)
    assert asked("GET", f"{found['url']}/alive").good == {"status": "ok"}
    server.stop(found["runtime_id"])
    return str(found["url"])


@pytest.mark.parametrize("queue", [0, 300])
def test_many_at_once_are_all_served(queue: int, private_storage: Path, standin: str, tmp_path: Path) -> None:
    refused: list[float] = []
    most = waited = 0
    done = threading.Event()
    with serving(tmp_path / "state", engine="podman", slots=SLOTS, cpus=1, memory=512, queue=queue) as server:

        def watch() -> tuple[int, int]:
            most = waited = 0
            while not done.wait(0.1):
                found = server.ask("GET", "/list").good
                assert found["slots"] == SLOTS
                running = [each for each in found["runtimes"] if each["phase"] != "queued"]
                most, waited = max(most, len(running)), max(waited, found["waiting"])
            return most, waited

        with ThreadPoolExecutor(MANY + 1) as pool:
            watching = pool.submit(watch)
            waiting = [pool.submit(served, server, f"many-{n}", standin, refused) for n in range(MANY)]
            try:
                assert len([each.result() for each in waiting]) == MANY
            finally:
                done.set()
            most, waited = watching.result()
        assert server.ask("GET", "/list").good["free"] == SLOTS
    assert most == SLOTS
    assert (waited > MANY / 2 and not refused) if queue else (len(refused) > MANY / 2 and not waited)


def test_a_killed_servers_sandboxes_go_on(private_storage: Path, standin: str, tmp_path: Path) -> None:
    """The next one finds them by their sessions; what lost its session, it ends."""
    server = Server(tmp_path / "state", engine="podman", slots=SLOTS, cpus=1, memory=512)
    server.begin()
    try:
        first = {name: server.start(name, standin) for name in ("kept", "lost", "paused")}
        before = {name: server.ready(name) for name in first}
        assert server.ask("POST", "/pause", {"runtime_id": first["paused"]["runtime_id"]}).status == 200
        server.kill()
        assert asked("GET", f"{first['kept']['url']}/alive").status == 200
        (tmp_path / "state/sessions" / f"{first['lost']['runtime_id']}.json").unlink()
        url, key = server.url, server.key
        server.begin()
        assert (server.url, server.key) == (url, key), "its clients know no other"
        after = server.ready("kept")
        for field in ("runtime_id", "url", "session_api_key"):
            assert after[field] == before["kept"][field]
        assert asked("GET", f"{after['url']}/alive").status == 200
        assert server.ask("GET", "/sessions/lost").status == 404
        until(lambda: gone(first["lost"]["url"]), "the end of the lost one", 30, server.said)
        assert server.ask("GET", "/sessions/paused").good["status"] == "paused"
        assert server.ask("POST", "/resume", {"runtime_id": first["paused"]["runtime_id"]}).status == 200
        assert asked("GET", f"{first['paused']['url']}/alive").status == 200
        again = server.start("kept", standin)
        assert again["runtime_id"] == before["kept"]["runtime_id"]
        assert server.ask("GET", "/list").good["free"] == SLOTS - 2
    finally:
        code = server.end()
    assert code == 0 and gone(first["kept"]["url"]), server.said()
    assert containers() == []
