"""What a process sees in a container, and how it ends: by every engine that runs OCI images."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from containers import engine, host
from containers.engine import Bind, ContainerRun, Engine
from containers.engines.podman import Podman
from image_cache.store import Store
from kit.nouns import Image
from runner import local
from runner.launch import Launch
from runner.runs import Attempt
from tests.live.needs import need
from tests.live.parts_engines import User
from tests.live.tiny import call, expected, show

pytestmark = pytest.mark.live


@pytest.fixture(params=["podman", "docker"])
def running_engine(request: pytest.FixtureRequest, tiny_store: Store) -> Engine:
    name = request.param
    request.getfixturevalue("private_dockerd" if name == "docker" else "private_storage")
    need(shutil.which(name), f"{name} is not installed")
    return engine.get(name, tiny_store.write_docker_archive)


@pytest.fixture
def loaded(running_engine: Engine, tiny_image: Image) -> str:
    reference = f"localhost/slipworks/test-run-{running_engine.name}:1"
    running_engine.load(tiny_image, reference)
    return reference


def test_a_process_sees_the_same_under_every_engine(
    running_engine: Engine, loaded: str, tmp_path: Path
) -> None:
    assert show(running_engine, loaded, tmp_path / "a folder", call) == expected()


def listed(made: Engine, *which: str) -> str:
    """The ids of the engine's containers."""
    program = made.run_argv(ContainerRun(image="x", argv=()))
    return call([*program[: program.index("run")], "ps", "--quiet", *which])[1].strip()


def started(made: Engine, run: ContainerRun) -> subprocess.Popen[str]:
    """The client, once the process inside has said that it is up and the engine knows that it runs.

    podman 4.3 loses a signal that comes between the two.
    """
    client = subprocess.Popen(made.run_argv(run), stdout=subprocess.PIPE, text=True)
    assert client.stdout
    assert client.stdout.readline() == "up\n"
    deadline = time.monotonic() + 30
    while not listed(made, "--filter=status=running"):
        assert time.monotonic() < deadline, "the engine never said that the container runs"
    return client


def test_ending_the_client_ends_the_process_and_leaves_nothing(
    running_engine: Engine, loaded: str, tmp_path: Path
) -> None:
    script = "trap 'echo told > /shared/ended; exit 5' TERM; echo up; while :; do sleep 0.05; done"
    run = ContainerRun(image=loaded, argv=("sh", "-c", script), binds=(Bind(tmp_path, "/shared"),))
    client = started(running_engine, run)
    client.send_signal(signal.SIGTERM)
    assert client.wait(30) == 5
    assert (tmp_path / "ended").read_text() == "told\n"
    assert listed(running_engine, "--all") == ""


def test_a_process_without_handlers_ends_at_term(running_engine: Engine, loaded: str) -> None:
    if running_engine.name == "podman":
        need(host.facts().init, "no static init is here (apt-get install catatonit)")
    client = started(running_engine, ContainerRun(image=loaded, argv=("sh", "-c", "echo up; exec sleep 60")))
    client.send_signal(signal.SIGTERM)
    assert client.wait(20) == 143
    assert listed(running_engine, "--all") == ""


@pytest.mark.parametrize("moment", [0, 0.1, 0.3, 0.6])
def test_ctrl_c_while_containers_start_leaves_none(
    running_engine: Engine, loaded: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: float
) -> None:
    """Before a container runs, TERM ends its client alone, and no --rm removes what was made so far."""
    monkeypatch.setattr(local, "AFTER", 1.0)
    names = [f"slipworks-test-{os.getpid()}-{moment}-{rank}" for rank in range(2)]
    runs = [ContainerRun(image=loaded, argv=("sleep", "60"), name=name) for name in names]
    launch = Launch(run_id="x", name="x", command=("true",), nodes=2, nodes_here=2, grace=1.0)
    attempt = Attempt(tmp_path)

    def interrupt() -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and attempt.events("launcher").read_text().count("started") < 2:
            time.sleep(0.005)
        time.sleep(moment)
        os.kill(os.getpid(), signal.SIGINT)

    attempt.events("launcher").touch()
    watcher = threading.Thread(target=interrupt)
    watcher.start()
    argvs = [running_engine.run_argv(run) for run in runs]
    remove = running_engine.remove_argv(names)
    code = local.run(attempt, launch, argvs, lambda line: None, remove)
    watcher.join()
    assert code == 128 + signal.SIGINT
    assert listed(running_engine, "--all") == ""


def test_removing_spares_others_and_does_not_mind_what_is_not_there(
    running_engine: Engine, loaded: str
) -> None:
    kept, gone = (f"slipworks-test-{os.getpid()}-{word}" for word in ("kept", "gone"))
    argv = ("sh", "-c", "echo up; exec sleep 60")
    clients = [
        started(running_engine, ContainerRun(image=loaded, argv=argv, name=name)) for name in (kept, gone)
    ]
    call(running_engine.remove_argv([gone, "slipworks-test-never"]))
    assert listed(running_engine, "--all", f"--filter=name={gone}") == ""
    assert listed(running_engine, f"--filter=name={kept}")
    call(running_engine.remove_argv([kept]))
    for client in clients:
        client.wait(20)
    assert listed(running_engine, "--all") == ""


# As an ordinary user


def test_podman_without_root(ordinary_user: User, tiny_image: Image) -> None:
    need(shutil.which("podman"), "podman is not installed")
    home = ordinary_user.folder

    def work() -> list[str]:
        made = Podman()  # not by name: this user may not be able to read our folder
        made.check()
        made.load(tiny_image, "localhost/slipworks/test-rootless:1")
        return show(made, "localhost/slipworks/test-rootless:1", home / "run here", call)

    assert ordinary_user.do(work) == expected()
