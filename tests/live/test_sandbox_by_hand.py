"""`runner sandbox run` and its like, typed as users type them: any base, under podman and by Apptainer."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct, json

from kit import process
from runner import agent_layer, images
from runner.agent_client import Agent
from runner.agent_layer import AgentLayer
from tests.live.needs import need
from tests.live.parts_bases import Zoo, put
from tests.live.parts_code_server import BECOME
from tests.live.parts_jobs import MAIN, PACKAGES, Told, interpreter
from tests.live.parts_left import processes
from tests.live.parts_roots import NATIVE
from tests.live.parts_sandbox_server import Server, containers, gone, serving
from tests.live.parts_slurm_daemons import until
from tests.live.parts_users import User

pytestmark = [pytest.mark.live, pytest.mark.timeout(300)]
PATIENCE = 180.0


class Hand(Struct):
    """Who types: this process's user, or another; with a state of its own below `home`."""

    home: Path
    user: User | None = None

    def started(self, *words: str) -> subprocess.Popen[str]:
        program = sys.executable if self.user is None else interpreter(self.user)
        argv = [program, "-c", MAIN, "sandbox", *words]
        env = {**os.environ, "XDG_STATE_HOME": str(self.home / "state")}
        if self.user:
            known = pwd.getpwnam(self.user.name)
            argv = [sys.executable, "-c", BECOME, str(known.pw_uid), str(known.pw_gid), *argv]
            env = {"PATH": os.environ["PATH"], "HOME": str(self.home), "TMPDIR": str(self.home),
                   "USER": self.user.name, "PYTHONPATH": os.pathsep.join(map(str, PACKAGES))}  # fmt: skip
        return subprocess.Popen(
            argv, env=env, cwd=self.home, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def types(self, *words: str) -> Told:
        child = self.started(*words)
        try:
            out, err = child.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            child.terminate()
            raise AssertionError(f"{words} does not end: {child.communicate()}") from None
        return Told(child.returncode, out, err)

    def good(self, *words: str) -> str:
        told = self.types(*words)
        assert told.code == 0, (words, told.out, told.err)
        return told.out

    def run(self, image: str, *words: str) -> dict[str, Any]:
        found: dict[str, Any] = json.decode(self.good("run", image, "--json", *words))
        return found

    def list(self, *words: str) -> dict[str, str]:
        """Name and state."""
        told = json.decode(self.good("list", "--json", *words))
        return {each["name"]: each["state"] for each in told}


@pytest.fixture
def hand(private_storage: Path, tmp_path: Path) -> Hand:
    need(shutil.which("podman"), "podman is not installed")
    return Hand(tmp_path)


def story(hand: Hand, image: str, *words: str) -> None:
    """From nothing over a command of an agent to nothing."""
    made = hand.run(image, "--name", "mine", "--env", "LEVEL=a b", *words)
    url, key = made["url"], made["session_api_key"]
    try:
        assert key.encode() not in command_lines()
        with Agent(url, key) as agent:
            ran = agent.command("echo $FROM_BASE $LEVEL; test -d /slipworks-agent && exit 3")
            assert (ran.code, ran.out) == (3, "it's here a b\n"), ran.err
            agent.upload("/tmp/there/a file", bytes(range(256)))
        ran_beside = hand.types(
            "exec", "mine", "--", "sh", "-c", "echo $FROM_BASE; wc -c <'/tmp/there/a file'; exit 4"
        )
        assert (ran_beside.code, ran_beside.out.split()) == (4, ["it's", "here", "256"]), ran_beside.err
        assert hand.list() == {"mine": "ready"}
        assert "/alive" in hand.good("logs", "mine")
        assert hand.types("run", image, "--name", "mine", *words).code == 2
    finally:
        stopped = hand.types("stop", "mine")
    assert (stopped.code, stopped.out) == (0, "mine\n"), stopped.err
    assert gone(url) and key.encode() not in environments()
    assert hand.list("--all") == {} and [*hand.home.rglob(made["id"])] == []


def command_lines() -> bytes:
    return b"".join(processes("cmdline"))


def environments() -> bytes:
    return b"".join(processes("environ"))


def test_any_base_under_podman(hand: Hand, agent: AgentLayer, zoo: Zoo, registry_host: str) -> None:
    assert agent.gzip.path.is_file()
    story(hand, put(zoo("busybox"), registry_host, "zoo/busybox"), "--engine", "podman")
    assert containers() == []


def test_a_sif_by_apptainer_of_an_ordinary_user(agent: AgentLayer, zoo: Zoo, ordinary_user: User) -> None:
    """Nothing is baked, and nothing needs root."""
    need(shutil.which("apptainer"), "apptainer is not installed")
    assert agent.gzip.path.is_file()
    home = ordinary_user.folder / "by hand"
    home.mkdir()
    shutil.chown(home, ordinary_user.name)
    zoo("oci").layout(home / "layout")
    shutil.copyfile(agent_layer.squashfs(NATIVE, images.store()), home / "layer.sqfs")
    build = ["apptainer", "build", "--disable-cache", str(home / "a base.sif"), f"oci:{home}/layout"]
    ordinary_user.do(partial(process.run, build, what="make a SIF of the base"))
    story(Hand(home, ordinary_user), "a base.sif", "--engine", "apptainer", "--layer", "layer.sqfs")


def test_one_that_ends_leaves_its_last_words_alone(hand: Hand, standin: str) -> None:
    told = hand.types("run", standin, "--engine", "podman", "--", "/bin/sh", "-c", "echo no luck; exit 7")
    assert (told.code, told.out) == (42, ""), told
    assert "no luck" in told.err
    assert containers() == [] and hand.list("--all") == {}


def test_an_interrupted_run_leaves_nothing(hand: Hand, standin: str) -> None:
    """Its server would not listen for a minute."""
    child = hand.started("run", standin, "--engine", "podman", "--env", "AFTER=60")
    try:
        until(lambda: bool(containers()), "its container", 60)
        child.send_signal(signal.SIGTERM)
        told = child.communicate(timeout=PATIENCE)
    finally:
        child.kill()
    assert child.returncode == 128 + signal.SIGTERM, told
    assert containers() == [] and hand.list("--all") == {}


def test_a_servers_sandboxes_are_entered_and_ended_by_it(hand: Hand, standin: str) -> None:
    state = hand.home / "it's a server"
    with serving(state, engine="podman", slots=2, cpus=1, memory=512) as server:
        server.start("one", standin)
        server.start("two", standin)
        found = server.ready("one")
        server.ready("two")
        given = ("--state", str(state))
        assert hand.list(*given) == {"one": "ready", "two": "ready"} and hand.list() == {}
        assert hand.good("exec", "one", *given, "--", "cat", "/tmp/www/has_key") == "yes\n"
        assert found["session_api_key"] not in hand.good("list", "--all", *given)
        assert hand.good("stop", "one", *given) == "one\n"
        assert server.ask("GET", "/sessions/one").good["status"] == "stopped"
        assert hand.list(*given) == {"two": "ready"}
        assert server.ask("GET", "/list").good["free"] == 1
    assert containers() == []


def test_what_a_killed_server_left_is_ended(hand: Hand, standin: str) -> None:
    state = hand.home / "state of a server"
    server = Server(state, engine="podman", slots=2, cpus=1, memory=512)
    server.begin()
    try:
        made = [server.start(name, standin) for name in ("one", "lost")]
        server.ready("one")
        server.ready("lost")
    finally:
        server.kill()
    assert len(containers()) == 2
    (state / "sessions" / f"{made[1]['runtime_id']}.json").unlink()
    assert len(hand.good("stop", "--all", "--state", str(state)).splitlines()) == 2
    assert containers() == [] and hand.list("--state", str(state)) == {}
