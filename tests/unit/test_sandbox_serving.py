"""`runner sandbox serve` as a process: its URL, its key, one server a folder, its end, and kill -9."""

from __future__ import annotations

import json
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kit.errors import AuthError, HeldError, LaunchError
from runner import ports
from runner.sandboxes import held_port, records, serving
from runner.sandboxes.client import Client
from runner.sandboxes.settings import Settings
from tests.unit.parts_desk import until

ROOT = Path(__file__).parents[2]
STAND_IN = """
import sys, time
from pathlib import Path
from runner import cli
from runner.sandboxes import backend, desk, images
from tests.unit.parts_desk import Engine, Gallery

class Kept(Engine):
    'Its containers outlive the process. It does not answer while there is a file "hold" beside their folder.'
    folder = Path(sys.argv.pop(1))
    def states(self, state):
        hold, asked = (self.folder.with_name(each) for each in ("hold", "asked"))
        while hold.exists():
            asked.touch()
            time.sleep(0.01)
        return {each.name: "running" for each in self.folder.iterdir()}
    def start(self, start):
        self.folder.joinpath(start.id).touch()
        return super().start(start)
    def stop(self, id, grace=10.0):
        self.folder.joinpath(id).unlink(missing_ok=True)

engine = Kept()
backend.chosen = lambda settings: engine
images.of = lambda settings, name: Gallery()
class Alive:
    def __init__(self, url, key): pass
    def __enter__(self): return self
    def __exit__(self, *_): pass
    def alive(self): return True
    def idle(self): return None
desk.Desk.__init__.__kwdefaults__["agent"] = Alive
sys.exit(cli.main(sys.argv[1:]))
"""
PATIENCE = 60


class Process:
    """A server whose engine is a folder."""

    def __init__(self, tmp_path: Path, *words: str, name: str = "state", answers: bool = True) -> None:
        self.state, self.log = tmp_path / name, tmp_path / f"{name}.log"
        self.containers = tmp_path / "containers"
        self.containers.mkdir(exist_ok=True)
        argv = [sys.executable, "-c", STAND_IN, str(self.containers), "sandbox", "serve", "--state",
                str(self.state), "--slots=4", *words]  # fmt: skip
        with self.log.open("a") as log:
            self.child = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=log, text=True, cwd=ROOT)
        assert self.child.stdout
        self.url = self.child.stdout.readline().strip() if answers else ""

    @property
    def key(self) -> str:
        return (self.state / "key").read_text()

    def ask(self, method: str, path: str, **body: Any) -> dict[str, Any]:
        with Client(self.url, self.key) as client:
            return client.ask(method, path, body or None)

    def ends(self, how: signal.Signals | None = None) -> int:
        if how:
            self.child.send_signal(how)
        assert self.child.stdout
        assert self.child.stdout.read() == ""  # its URL was all of the answer
        return self.child.wait(PATIENCE)


Made = Callable[..., Process]


@pytest.fixture
def begun(tmp_path: Path) -> Iterator[Made]:
    found: list[Process] = []

    def make(*words: str, **more: Any) -> Process:
        found.append(Process(tmp_path, *words, **more))
        return found[-1]

    yield make
    for each in found:
        each.child.kill()
        each.child.communicate()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_it_answers_and_ends_in_order(begun: Made, how: signal.Signals) -> None:
    server = begun()
    assert server.url.startswith("http://127.0.0.1:"), server.log.read_text()
    told = json.loads((server.state / "server.json").read_text())
    assert (told["url"], told["pid"]) == (server.url, server.child.pid)
    for name in ("key", "server.json"):
        assert stat.S_IMODE((server.state / name).stat().st_mode) == 0o600
    id = server.ask("POST", "/start", image="image", session_id="one")["runtime_id"]
    until(lambda: server.ask("GET", "/sessions/one")["pod_status"] == "ready", "ready")
    with Client(server.url, "other") as stranger, pytest.raises(AuthError, match="X-API-Key"):
        stranger.ask("GET", "/list")
    assert [each.name for each in server.containers.iterdir()] == [id]
    assert server.ends(how) == 0
    assert list(server.containers.iterdir()) == [] and not (server.state / "server.json").exists()
    said = server.log.read_text()
    assert "4 slots" in said and "Traceback" not in said
    assert server.key not in said


def test_one_that_was_killed_is_begun_again_with_its_sandboxes_and_its_key(begun: Made) -> None:
    server = begun()
    before = server.ask("POST", "/start", image="image", session_id="one")
    until(lambda: server.ask("GET", "/sessions/one")["pod_status"] == "ready", "ready")
    key = server.key
    server.ends(signal.SIGKILL)
    (server.containers / ("f" * 16)).touch()  # of nobody
    again = begun()
    assert again.key == key
    until(lambda: again.ask("GET", "/sessions/one")["pod_status"] == "ready", "ready again")
    after = again.ask("GET", "/sessions/one")
    assert [after[each] == before[each] for each in ("runtime_id", "url", "session_api_key")] == [True] * 3
    assert [each.name for each in again.containers.iterdir()] == [before["runtime_id"]]
    assert again.ends(signal.SIGTERM) == 0


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_one_that_is_told_to_end_while_it_finds_sandboxes_ends_them(
    begun: Made, how: signal.Signals, tmp_path: Path
) -> None:
    server = begun()
    server.ask("POST", "/start", image="image", session_id="one")
    until(lambda: server.ask("GET", "/sessions/one")["pod_status"] == "ready", "ready")
    server.ends(signal.SIGKILL)
    (tmp_path / "hold").touch()
    again = begun(answers=False)
    until((tmp_path / "asked").exists, "the question to the engine")
    again.child.send_signal(how)
    (tmp_path / "hold").unlink()
    again.ends()
    assert list(server.containers.iterdir()) == [], again.log.read_text()
    assert [each.phase for each in records.read(server.state)] == ["stopped"]


def test_a_restarted_server_finds_its_port_free() -> None:
    """No outgoing connection takes it meanwhile."""
    settings = Settings()
    with serving.bound(settings) as one, serving.bound(settings) as other:
        found = [each.getsockname()[1] for each in (one, other)]
        assert len(set(found)) == 2 and all(held_port.LOWEST <= each < ports.ephemeral() for each in found)
    with serving.bound(settings, before=found[0]) as again:
        assert again.getsockname()[1] == found[0]


def test_a_folder_has_one_server(begun: Made) -> None:
    first = begun()
    second = begun()
    assert (second.url, second.ends()) == ("", HeldError.code)
    assert str(first.child.pid) in second.log.read_text()
    assert first.ask("GET", "/list")["total"] == 0


def test_a_taken_port_is_told(begun: Made) -> None:
    port = begun().url.rpartition(":")[2]
    other = begun(f"--port={port}", name="other")
    assert other.ends() == LaunchError.code
    said = other.log.read_text()
    assert f"port {port}: Address already in use" in said and "ss -ltnp" in said


def test_a_front_of_two(begun: Made) -> None:
    nodes = [begun(name="a"), begun(name="b")]
    for state in (nodes[1].state, nodes[0].state.with_name("front")):
        state.mkdir(exist_ok=True)
    # One key for all, as a job has it: the second node's server is begun again with it.
    nodes[1].ends(signal.SIGTERM)
    for name in ("b", "front"):
        path = nodes[0].state.with_name(name) / "key"
        path.write_text(nodes[0].key)
        path.chmod(0o600)
    nodes[1] = begun(name="b")
    front = begun(f"--front={nodes[0].url}", f"--front={nodes[1].url}", name="front")
    assert front.ask("GET", "/list")["slots"] == 8
    for number in range(8):
        front.ask("POST", "/start", image="image", session_id=f"s{number}")
    assert [each.ask("GET", "/list")["total"] for each in nodes] == [4, 4]
    assert front.ends(signal.SIGTERM) == 0
    assert [each.ask("GET", "/list")["total"] for each in nodes] == [4, 4]  # they are the nodes' own
