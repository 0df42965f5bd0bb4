"""Two servers of sandboxes behind one address, as on two nodes of a job: placed by room, and found again."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.live.parts_sandbox_server import Server, asked, containers, gone, wish
from tests.live.parts_slurm_daemons import until

pytestmark = [pytest.mark.live, pytest.mark.timeout(300)]
SLOTS = 2  # of a node
KEY = "0123456789abcdef" * 4


def begun(state: Path, **settings: object) -> Server:
    """All of a job's servers have one key, which its script makes."""
    state.mkdir(mode=0o700)
    (state / "key").write_text(KEY)
    (state / "key").chmod(0o600)
    server = Server(state, **settings)
    server.begin()
    return server


def names(server: Server) -> set[str]:
    return {each["session_id"] for each in server.ask("GET", "/list").good["runtimes"]}


def test_two_nodes_behind_one_address(private_storage: Path, standin: str, tmp_path: Path) -> None:
    own = {"engine": "podman", "slots": SLOTS, "cpus": 1, "memory": 512}
    servers = [begun(tmp_path / name, **own) for name in ("a", "b")]
    try:
        servers.append(front := begun(tmp_path / "front", front=[each.url for each in servers]))
        all_of_them(front, servers[0], servers[1], standin)
    finally:
        codes = [each.end() for each in reversed(servers)]
    assert codes == [0, 0, 0], [each.said() for each in servers]
    assert containers() == []


def all_of_them(front: Server, a: Server, b: Server, image: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        began = list(pool.map(lambda n: front.start(f"s{n}", image), range(4)))
        found = {each["session_id"]: each for each in pool.map(lambda n: front.ready(f"s{n}"), range(4))}
    assert len(names(a)) == len(names(b)) == SLOTS and names(a) | names(b) == set(found)
    for each in began:
        assert found[each["session_id"]]["url"] == each["url"]
        assert asked("GET", f"{each['url']}/alive").status == 200
    full = front.ask("POST", "/start", wish("more", image))
    assert full.status == 429 and float(full.headers["Retry-After"]) >= 1

    # The front keeps nothing: one that is killed and begun again has all that its nodes have.
    front.kill()
    url = front.url
    front.begin()
    assert front.url == url and names(front) == set(found)
    assert front.start("s0", image)["runtime_id"] == found["s0"]["runtime_id"]

    # A node's server is killed: its sessions fail, the other's go on and there is room for others.
    lost = names(b)
    b.kill()
    for name in lost:
        until(lambda: front.ask("GET", f"/sessions/{name}").good["pod_status"] == "failed",  # noqa: B023
              f"the end of {name}", 60, front.said)  # fmt: skip
    assert names(front) == names(a)
    kept = sorted(names(a))[0]
    front.stop(found[kept]["runtime_id"])
    until(lambda: gone(found[kept]["url"]), f"the end of {kept}", 30, front.said)
    until(lambda: front.ask("GET", "/list").good["free"] == 1, "a free slot", 30, front.said)
    moved = sorted(lost)[0]
    assert front.start(moved, image)["url"] != found[moved]["url"]
    front.ready(moved)

    # It is back: what goes on there is there again, but for what was begun again elsewhere.
    b.begin()
    again = sorted(lost)[1]
    until(lambda: again in names(front), f"{again} to be seen again", 30, front.said)
    assert front.ready(again)["runtime_id"] == found[again]["runtime_id"]
    until(lambda: gone(found[moved]["url"]), f"the end of the older {moved}", 30, front.said)
    assert names(b) == {again}
