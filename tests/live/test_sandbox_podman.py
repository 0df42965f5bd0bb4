"""Sandboxes by podman (root's, and an ordinary user's) and by Docker: what they may, what they may not, and
that nothing of them is left."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from kit.errors import NotFoundError, SlipworksError
from runner import agent_layer, images
from runner.agent_client import Agent
from runner.agent_layer import AgentLayer
from runner.sandboxes import backend, processes
from runner.sandboxes.backends.containers import Containers
from runner.sandboxes.nouns import KEY, Limits, Ready, Start
from runner.sandboxes.settings import Settings
from tests.live import parts_left
from tests.live.needs import need
from tests.live.parts_bases import busybox_tar
from tests.live.parts_registry import free_port
from tests.live.parts_roots import NATIVE
from tests.live.parts_sandbox_harm import BOMB
from tests.live.parts_slurm_daemons import until
from tests.live.parts_users import User

pytestmark = [pytest.mark.live, pytest.mark.timeout(180)]
IMAGE = "localhost/slipworks-test-sandbox:1"
CPU = max(os.sched_getaffinity(0))
LIMITS = Limits(cpus=(CPU,), memory=64 << 20, pids=40, disk=30 << 20)
SERVE = 'echo begun; exec /bin/busybox httpd -f -p "$2:$4" -h /etc'
FILL = "for n in 1 2 3 4 5; do dd if=/dev/zero of=/fill.$n bs=1M count=10; done; sleep 60"
HIDE = "exec 7>/one 8>/two; rm /one /two; busybox dd if=/dev/zero bs=1M count=20 >&7; " \
       "busybox dd if=/dev/zero bs=1M count=20 >&8; sleep 60"  # fmt: skip
EAT = "busybox dd if=/dev/zero of=/dev/null bs=160M count=100000"
Do = Callable[[Callable[[], Any]], Any]
"""Does work as who runs the engine, and gives what it returns."""


class Node:
    """An engine that has the image, and who asks it."""

    def __init__(self, name: str, folder: Path, do: Do) -> None:
        self.name, self.folder, self.do = name, folder, do


def had(engine: str, folder: Path) -> None:
    """Makes the image known to an engine, which need not be asked about registries for it."""
    (folder / "image.tar").write_bytes(busybox_tar())
    subprocess.run([engine, "import", folder / "image.tar", IMAGE], check=True, capture_output=True)


@pytest.fixture(params=["podman", "rootless podman", "docker"], scope="module")
def node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    kind = request.param
    if kind == "rootless podman":
        need(shutil.which("podman"), "podman is not installed")
        user: User = request.getfixturevalue("ordinary_user")
        made = Node("podman", user.folder, user.do)
    else:
        request.getfixturevalue("private_storage" if kind == "podman" else "private_dockerd")
        made = Node(kind, tmp_path_factory.mktemp(kind), lambda work: work())
    made.do(partial(had, made.name, made.folder))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SECRET_OF_THE_SERVER", "not for sandboxes")
        patch.setenv("http_proxy", "http://user:not-for-sandboxes@127.0.0.1:1")
        yield made


def begun(node: Node, engine: backend.Backend, number: int, **more: Any) -> Start:
    folder = node.folder / f"sandbox {number}"
    folder.mkdir(exist_ok=True)
    given: dict[str, Any] = {
        "id": f"{os.getpid():08x}{number:08x}", "state": f"test{os.getpid()}", "limits": LIMITS,
        "image": Ready(reference=IMAGE, command=("/bin/sh", "-c", SERVE, "serve")),
        "secret": {"TOLD": "a b", "SESSION": "of this one"},
        "folder": str(folder), "port": free_port(), **more,
    }  # fmt: skip
    start = Start(name=f"slipworks-{given['id']}", **given)
    assert engine.start(start) == f"http://127.0.0.1:{start.port}"
    return start


@contextlib.contextmanager
def sandbox(node: Node, number: int, **more: Any) -> Iterator[tuple[Containers, Start]]:
    """One that runs, while the block lasts."""
    engine = backend.get(node.name, Settings(cpus=1))
    assert isinstance(engine, Containers)
    start = begun(node, engine, number, **more)
    try:
        yield engine, start
    finally:
        engine.stop(start.id, 0.0)


def said(engine: backend.Backend, start: Start, line: str) -> str:
    argv = engine.exec_argv(start.id, ["/bin/sh", "-c", line])
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=30).stdout


def answers(start: Start) -> bool:
    asked = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with asked.open(f"{start.url}/passwd", timeout=1) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def test_a_sandbox_from_its_start_to_its_end(node: Node) -> None:
    def life() -> None:
        with sandbox(node, 1, workdir='/made/"for", it') as (engine, start):
            until(lambda: answers(start), "the sandbox to answer", 20, lambda: engine.logs(start.id))
            assert engine.states(start.state) == {start.id: "running"}
            assert engine.states("of another server") == {}
            assert "begun" in engine.logs(start.id)
            assert not list(Path(start.folder).iterdir())  # the file that held the key is gone

            looked = said(engine, start, "env; pwd; cat /proc/1/status; cat /proc/1/limits")
            for there in ("TOLD=a b", "SESSION=of this one", '/made/"for", it',
                          "NoNewPrivs:\t1"):  # fmt: skip
                assert there in looked, there
            assert "SECRET_OF_THE_SERVER" not in looked and "not-for-sandboxes" not in looked
            kept = int(next(line for line in looked.splitlines() if line.startswith("CapBnd")).split()[1], 16)
            assert not kept & (1 << 21 | 1 << 13 | 1 << 27 | 1 << 19)  # admin, raw sockets, devices, tracing

            engine.pause(start.id)
            assert engine.states(start.state) == {start.id: "paused"} and not answers(start)
            engine.resume(start.id)
            until(lambda: answers(start), "the sandbox to go on", 10)

            used = engine.use(start.id)
            assert used.pids and used.memory and 0 < used.memory < LIMITS.memory
            until(lambda: engine.use(start.id).disk is not None, "its disk to be measured", 20)
            left = processes.namespace(_first(engine, start))
            engine.pause(start.id)  # one that is paused can be stopped
            began = time.monotonic()
            engine.stop(start.id, 1.0)
            assert time.monotonic() - began < 60
            assert engine.states(start.state) == {}
            assert not processes.belonging([left])[left]
            assert not answers(start)
            engine.stop(start.id)
            until(lambda: not _wardens(), "the warden to end", 10)

    node.do(life)


def _first(engine: Containers, start: Start) -> int:
    return engine._root(start.id)[0]


def _wardens() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name.startswith("warden")]


def test_what_a_host_gives_is_told_as_it_is(node: Node) -> None:
    """What `enforced` says is what the kernel does."""

    def look() -> None:
        with sandbox(node, 2) as (engine, start):
            told, pid = engine.enforced(), _first(engine, start)
            own = Path("/proc/self/ns/net").readlink()
            assert (Path(f"/proc/{pid}/ns/net").readlink() != own) == (told["network"] == "own")
            until(lambda: os.sched_getaffinity(pid) == {CPU}, "its processors to be its own", 10)
            groups = Path(f"/proc/{pid}/cgroup").read_text()
            assert ("cgroup" in told.values()) == (
                start.name in groups or "libpod-" in groups or "/docker/" in groups
            )
            assert set(told) == {"cpus", "memory", "pids", "disk", "network"}

    node.do(look)


HARMS = {
    "bomb": (BOMB, "processes"),
    "memory": (EAT, "memory"),
    "disk": (FILL, "disk"),
    "deleted": (HIDE, "disk"),
}
TRIED = [
    ("podman", "bomb"),
    ("podman", "memory"),
    ("podman", "disk"),
    ("rootless podman", "bomb"),
    ("rootless podman", "memory"),
    ("rootless podman", "deleted"),
    ("docker", "bomb"),
    ("docker", "memory"),
]
"""What another row shows already is not tried again: disks are watched by the same words everywhere."""


@pytest.mark.parametrize(("node", "harm"), TRIED, indirect=["node"])
def test_what_harms_the_node_is_held_or_ended(node: Node, harm: str) -> None:
    line, what = HARMS[harm]

    def life() -> None:
        with sandbox(node, 3) as (engine, start):
            held = engine.enforced()["pids" if what == "processes" else what] == "cgroup"
            pid, namespace = engine._root(start.id)
            doing = subprocess.Popen(
                engine.exec_argv(start.id, ["/bin/sh", "-c", line]), stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )  # fmt: skip
            try:
                if held and what == "processes":
                    until(lambda: _count(namespace) >= LIMITS.pids - 2, "the bomb to fill its limit", 20)
                    assert _count(namespace) <= LIMITS.pids
                elif held:
                    assert doing.wait(30) == 137  # the kernel ended it, and nothing else
                    assert engine.states(start.state) == {start.id: "running"}
                else:
                    until(lambda: engine.states(start.state) == {start.id: "ended"}, "its end", 30)
                    assert engine.why(start.id).startswith("it had more than its ") and what in engine.why(
                        start.id
                    )
                    assert processes.namespace(pid) != namespace
            finally:
                doing.kill()
                doing.wait()

    node.do(life)


def _count(namespace: str) -> int:
    return sum(each.threads for each in processes.belonging([namespace])[namespace])


def test_another_server_finds_and_watches_what_is_there(node: Node) -> None:
    """As after the first was killed: nothing of it but the engine's own knowledge is there."""

    def life() -> None:
        with sandbox(node, 4) as (first, start):
            until(lambda: answers(start), "the sandbox to answer", 20, lambda: first.logs(start.id))
            first._warden.forget(start.id)
            second = backend.get(node.name, Settings())
            assert second.states(start.state) == {start.id: "running"}
            second.pause(start.id)
            third = backend.get(node.name, Settings())
            assert third.states(start.state) == {start.id: "paused"}
            third.resume(start.id)
            third.adopt(start.id, LIMITS, start.folder)
            argv = third.exec_argv(start.id, ["/bin/sh", "-c", FILL])
            with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as filling:
                until(lambda: third.states(start.state) == {start.id: "ended"}, "its end", 30)
                filling.kill()
            assert "of disk" in third.why(start.id)
            third.stop(start.id)
            assert first.states(start.state) == {}

    node.do(life)


def test_what_cannot_start_says_why_and_leaves_nothing(node: Node) -> None:
    def fail(image: Ready) -> SlipworksError:
        engine = backend.get(node.name, Settings())
        try:
            begun(node, engine, 5, image=image)
        except SlipworksError as failure:
            assert engine.states(f"test{os.getpid()}") == {}
            return failure
        raise AssertionError("it started")

    absent = Ready(reference="localhost/slipworks-test-absent:1", command=("/bin/sh",))
    assert isinstance(node.do(lambda: fail(absent)), NotFoundError)
    nothing = node.do(lambda: fail(Ready(reference=IMAGE, command=("/no/such/program",))))
    assert "/no/such/program" in nothing.message


def test_one_that_ends_by_itself_says_how(node: Node) -> None:
    def life() -> None:
        quits = Ready(reference=IMAGE, command=("/bin/sh", "-c", "echo last words; exit 7"))
        with sandbox(node, 6, image=quits) as (engine, start):
            until(lambda: engine.states(start.state) == {start.id: "ended"}, "its end", 20)
            assert engine.why(start.id) == "exit code 7"
            assert "last words" in engine.logs(start.id)

    node.do(life)


@pytest.mark.parametrize("node", ["podman", "rootless podman"], indirect=True)
def test_many_start_at_once(node: Node) -> None:
    def life() -> None:
        engine = backend.get(node.name, Settings())
        with ThreadPoolExecutor(4) as pool:
            starts = list(pool.map(lambda number: begun(node, engine, number), range(10, 14)))
            state = starts[0].state
            assert engine.states(state) == {each.id: "running" for each in starts}
            for each in starts:
                until(partial(answers, each), f"{each.id} to answer", 20)
            list(pool.map(lambda each: engine.stop(each.id, 0.0), starts))
        assert engine.states(state) == {}

    node.do(life)


@pytest.mark.parametrize("node", ["rootless podman"], indirect=True)
def test_the_agents_layer_is_mounted_without_root(node: Node, agent: AgentLayer) -> None:
    """As on a cluster: a base that has no agent is served at once."""
    layer = node.folder / "layer"
    subprocess.run(["cp", "-al", agent_layer.unpacked(NATIVE, images.store()), layer], check=True)
    image = Ready(
        reference=IMAGE, command=agent.entrypoint, mount=tuple(agent_layer.mount_argv("podman", layer))
    )

    def life() -> None:
        more = {
            "limits": Limits(memory=2 << 30),
            "secret": {KEY: "of this one", "FROM_BASE": "here"},
        }
        with (
            sandbox(node, 7, image=image, **more) as (engine, start),
            Agent(start.url, "of this one") as asked,
        ):
            until(asked.alive, "the agent to be alive", 90, lambda: engine.logs(start.id))
            assert asked.command("echo $FROM_BASE; id -u").out == "here\n0\n"
            asked.upload("/root/a file", b"\0back")
            assert asked.download("/root/a file") == b"\0back"
            assert engine.states(start.state) == {start.id: "running"}

    node.do(life)
    assert not parts_left.mounted(node.folder)
