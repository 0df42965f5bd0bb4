"""The agent's layer in bare roots: unpacked once, mounted read-only, and its server started in a chroot."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from definitions import layers
from image_cache.oci import Artifact
from kit import process
from runner import agent_layer as forms
from runner import building, images
from tests.live.parts_roots import NATIVE, need_apt, need_root
from tests.live.parts_slurm_net import LIVES

FOLDER = "/slipworks-agent"
START = [f"{FOLDER}/bin/tini", "-s", "--", f"{FOLDER}/bin/start"]
PATH = "/usr/local/bin:/usr/bin:/bin"
PATIENCE = 180.0
"""Seconds in which a server must be ready: some six on an idle machine, and this one may have other work."""


@pytest.fixture(scope="session")
def agent_layer() -> Artifact:
    """The layer's blob in the user's own store: made once, for whoever asks."""
    need_apt()
    return building.layer_artifact(layers.load("agent-server", "debian"), NATIVE, images.store())


@pytest.fixture(scope="session")
def agent_folder(agent_layer: Artifact) -> Path:
    """The layer's own folder, unpacked."""
    assert agent_layer.path.is_file()
    return forms.unpacked(NATIVE, images.store())


@pytest.fixture(scope="session")
def mounts() -> Iterator[list[str]]:
    """The words that run a command in a mount namespace, which ends with these tests, however they end."""
    need_root()
    argv = [*LIVES, "unshare", "--mount", "--propagation=private", "sh", "-c", "echo; exec sleep infinity"]
    holder = subprocess.Popen(argv, stdout=subprocess.PIPE)
    assert holder.stdout and holder.stdout.readline() == b"\n"
    yield [process.find("nsenter", "apt-get install util-linux"), f"--mount=/proc/{holder.pid}/ns/mnt"]
    holder.kill()
    holder.wait()


class Rooted(Struct, frozen=True):
    """A root, `path`, which who enters it by `mounts` finds the layer in."""

    path: Path
    mounts: list[str]

    def entering(self, *argv: str, user: str = "0:0") -> list[str]:
        """The command that runs one of the root in it."""
        chroot = process.find("chroot", "apt-get install coreutils")
        return [*self.mounts, chroot, f"--userspec={user}", str(self.path), *argv]


@pytest.fixture(scope="session")
def with_agent(
    agent_folder: Path,
    rooted: Callable[[str], Path],
    mounts: list[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], Rooted]:
    """suite or "busybox" -> a copy of that root; inside it have the layer, read-only, /proc and /dev."""

    def mount(*words: str | Path) -> None:
        process.run([*mounts, "mount", *words], what="mount")

    @cache
    def root(name: str) -> Rooted:
        full = tmp_path_factory.mktemp(f"{name}-agent") / "root"
        process.run(["cp", "-a", rooted(name), full], what="copy a root")
        for each in ("proc", "dev", "tmp", FOLDER[1:]):
            (full / each).mkdir(exist_ok=True)
        (full / "tmp").chmod(0o1777)
        mount("-t", "proc", "proc", full / "proc")
        mount("--rbind", "/dev", full / "dev")
        mount("--bind", agent_folder, full / FOLDER[1:])
        mount("-o", "remount,bind,ro", full / FOLDER[1:])
        return Rooted(full, mounts)

    return root


class Served:
    """A server that answers. port, and process: the chroot's, which is the server's first."""

    def __init__(self, port: int, process: subprocess.Popen[bytes], ready: float) -> None:
        self.port, self.process, self.ready = port, process, ready

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"X-Session-API-Key": "secret", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def run(self, command: str, cwd: str | None = None) -> tuple[int, str, str]:
        """What a command gives, run as the server's clients run one: exit code, stdout, stderr."""
        given = {"command": command, "timeout": 60, **({"cwd": cwd} if cwd else {})}
        began = self.ask("/api/bash/start_bash_command", given)
        out = err = ""
        seen: set[str] = set()
        for _ in range(600):
            query = f"command_id__eq={began['id']}&sort_order=TIMESTAMP&limit=100&kind__eq=BashOutput"
            for event in self.ask(f"/api/bash/bash_events/search?{query}")["items"]:
                if event["id"] not in seen:
                    seen.add(event["id"])
                    out, err = out + (event["stdout"] or ""), err + (event["stderr"] or "")
                    if event["exit_code"] is not None:
                        return event["exit_code"], out, err
            time.sleep(0.1)
        raise AssertionError(f"no end of {command!r}")

    def environment(self) -> dict[str, str]:
        """What a command finds there."""
        code, out, _ = self.run("env")
        assert code == 0
        return dict(line.split("=", 1) for line in out.splitlines())


@contextlib.contextmanager
def serving(rooted: Rooted, log: Path, user: str = "0:0", **env: str) -> Iterator[Served]:
    """The agent's server in a root, started by the image's entrypoint in this environment and no other."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    argv = rooted.entering(*START, "--host", "127.0.0.1", "--port", str(port), user=user)
    began = time.monotonic()
    with log.open("wb") as file:
        server = subprocess.Popen(
            argv, env={"OH_SESSION_API_KEYS_0": "secret", **env}, cwd=rooted.path, stdin=subprocess.DEVNULL,
            stdout=file, stderr=file, start_new_session=True,
        )  # fmt: skip
    try:
        while not _alive(port):
            assert server.poll() is None, log.read_text()
            assert time.monotonic() - began < PATIENCE, log.read_text()
            time.sleep(0.05)
        yield Served(port, server, time.monotonic() - began)
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def _alive(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/alive", timeout=2) as answer:
            return bool(json.load(answer) == {"status": "ok"})
    except (urllib.error.URLError, OSError, ValueError):
        return False
