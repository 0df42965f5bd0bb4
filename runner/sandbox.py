"""One sandbox of a baked image, as its clients start it: a container with a port of its own, under podman or
docker. What is started here is ended here; containers of others are never looked at.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from msgspec import Struct

from containers.engine import ContainerRun, Engine
from kit import process
from kit.errors import HostError, SlipworksError, VerifyError
from runner.agent_client import Agent
from runner.agent_layer import CLIENT

PORT = 60000
KEY = "OH_SESSION_API_KEYS_0"
POLL = 0.05
GRACE = 15.0  # seconds between TERM and the end of its container
Network = Literal["own", "host"]


class Start(Struct, frozen=True, kw_only=True):
    """How a sandbox is started.

    entrypoint  the image's own is kept; else it is cleared.
    network     "own": the server listens at PORT of it. "host": at a port that was free a moment ago.
    deadline    seconds until the server must say that it is alive.
    env         values that may be seen, beside the session key, which may not.
    """

    engine: Engine
    image: str
    entrypoint: bool = True
    network: Network = "own"
    deadline: float = 120.0
    env: dict[str, str] = {}
    mount: tuple[str, ...] = ()
    command: tuple[str, ...] = (CLIENT,)


class Sandbox(Struct, frozen=True, kw_only=True):
    """A sandbox whose server is alive. ready: seconds from the start to that."""

    url: str
    key: str
    agent: Agent
    ready: float
    child: process.Child[bytes]
    log: Path

    def __repr__(self) -> str:
        return f"Sandbox({self.url!r}, key=…)"

    def stop(self) -> None:
        """Ends it as an engine does. VerifyError where TERM does not."""
        self.child.terminate()
        try:
            self.child.wait(GRACE)
        except process.TimeoutExpired as slow:
            raise VerifyError(f"the agent-server goes on {GRACE:g} s after TERM") from slow


@contextlib.contextmanager
def started(start: Start, folder: Path, stop: threading.Event | None = None) -> Iterator[Sandbox]:
    """The sandbox, while the block lasts. folder: for its log and the file with its key: both are left there.

    VerifyError, with the end of its log, where it ends or does not come up in time; once `stop` is set, too.
    """
    name = f"slipworks-sandbox-{os.getpid()}-{secrets.token_hex(4)}"
    key, port = secrets.token_hex(24), PORT if start.network == "own" else _free()
    log = folder / f"{name}.log"
    run = ContainerRun(
        image=start.image, argv=(*start.command, "--port", str(port)), name=name, plain=True,
        entrypoint=start.entrypoint, port=port if start.network == "own" else None, env=start.env,
        env_file=_key_file(folder / f"{name}.env", start.engine, key),
    )  # fmt: skip
    argv = start.engine.run_argv(run)
    at = argv.index(start.image)
    began = time.monotonic()
    child = process.start([*argv[:at], *start.mount, *argv[at:]], what=f"start {start.image}", log=log)
    try:
        awaited = _Awaited(start, name, child, log, began + start.deadline, stop or threading.Event())
        url = f"http://127.0.0.1:{port}" if start.network == "host" else awaited.address(port)
        with Agent(url, key) as agent:
            awaited.alive(agent)
            ready = time.monotonic() - began
            yield Sandbox(url=url, key=key, agent=agent, ready=ready, child=child, log=log)
    finally:
        _end(start.engine, name, child)


class _Awaited:
    """A container that comes up, or not."""

    def __init__(
        self, start: Start, name: str, child: process.Child[bytes], log: Path, end: float,
        stop: threading.Event,
    ) -> None:  # fmt: skip
        self.start, self.name, self.child, self.log, self.end = start, name, child, log, end
        self.stop = stop

    def address(self, port: int) -> str:
        """Where loopback reaches the port: known once the container runs."""
        argv = self.start.engine.port_argv(self.name, port)
        while True:
            done = process.run(argv, what="ask for a port", check=False)
            words = done.out.split()
            if done.code == 0 and words:
                return f"http://127.0.0.1:{words[0].rpartition(':')[2]}"
            self._pause("has no port")

    def alive(self, agent: Agent) -> None:
        while not agent.alive():
            self._pause("does not answer /alive")

    def _pause(self, what: str) -> None:
        if self.child.poll() is not None:
            raise failed(self.start.image, f"ended with exit code {self.child.returncode}", self.log)
        if time.monotonic() > self.end:
            raise failed(self.start.image, f"{what} after {self.start.deadline:g} s", self.log)
        if self.stop.wait(POLL):
            raise VerifyError(f"{self.start.image} was left alone: asked to stop")


def failed(image: str, what: str, log: Path) -> SlipworksError:
    """What became of a container, by the end of its log."""
    text = log.read_text(errors="replace") if log.exists() else ""
    lines = [line for line in text.splitlines() if line.strip()][-process.TAIL :]
    told = "".join(f"\n  {line[:300]}" for line in lines)
    if any(word in text for word in _NETWORK):
        return HostError(
            f"a sandbox of {image} has no network of its own here{told and ':'}{told}",
            "runner prebuild verify … --network host",
        )
    return VerifyError(f"a sandbox of {image} {what}{', its last lines:' if told else ''}{told}")


_NETWORK = ("netavark:", "slirp4netns failed", "pasta failed", "network bridge not found", "iptables failed",
            "setting up network")  # fmt: skip
"""What podman and docker say where they cannot give a container a network."""


def _end(engine: Engine, name: str, child: process.Child[bytes]) -> None:
    """By TERM, which the client hands on; then by name: a client that was ended early may leave it behind."""
    if child.poll() is None:
        child.terminate()
        with contextlib.suppress(process.TimeoutExpired):
            child.wait(GRACE)
    process.finish(engine.remove_argv([name]), what=f"remove {name}")
    if child.poll() is None:
        process.end_group(child)


def _key_file(path: Path, engine: Engine, key: str) -> Path:
    path.touch(mode=0o600)
    path.write_text(engine.env_text({KEY: key}))
    return path


def _free() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
