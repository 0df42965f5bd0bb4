"""Sandboxes by hand on an engine that is a page on a port, and the commands as they are typed."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from kit.errors import NotFoundError
from runner import cli
from runner.sandboxes import backend, images, records
from runner.sandboxes.host import ImageFound
from runner.sandboxes.nouns import Limits, Ready, Session, Start, Use, Wish

Type = Callable[..., tuple[int, str, str]]
SECRET = "s3cret-of-the-shell"


class Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Engine:
    """What all backends of a test know of containers. mute: their servers never listen; dead: they end."""

    def __init__(self) -> None:
        self.starts: dict[str, Start] = {}
        self.states: dict[str, backend.State] = {}
        self.pages: dict[str, ThreadingHTTPServer] = {}
        self.mute = self.dead = False
        self.graces: list[float] = []
        self.watched: tuple[str, ...] = ()

    def end(self, id: str) -> None:
        if page := self.pages.pop(id, None):
            page.shutdown()
            page.server_close()


class Backend:
    """The engine "podman" of these tests."""

    pauses = None

    def __init__(self, engine: Engine) -> None:
        self.name, self.engine = "podman", engine

    def check(self) -> str:
        return "1"

    def enforced(self) -> dict[str, str]:
        return {"cpus": "cgroup", **dict.fromkeys(self.engine.watched, "watched")}

    def start(self, start: Start) -> str:
        engine = self.engine
        engine.starts[start.id] = start
        engine.states[start.id] = "ended" if engine.dead else "running"
        if not engine.mute and not engine.dead:
            engine.pages[start.id] = page = ThreadingHTTPServer((start.address, start.port), Page)
            threading.Thread(target=page.serve_forever, args=(0.01,), daemon=True).start()
        return start.url

    def adopt(self, id: str, limits: Limits, folder: str) -> None: ...

    def states(self, state: str) -> dict[str, backend.State]:
        return {id: said for id, said in self.engine.states.items() if self.engine.starts[id].state == state}

    def pause(self, id: str) -> None: ...

    def resume(self, id: str) -> None: ...

    def stop(self, id: str, grace: float = 10.0) -> None:
        self.engine.graces.append(grace)
        self.engine.end(id)
        self.engine.states.pop(id, None)

    def logs(self, id: str, lines: int = 100) -> str:
        return "".join([f"{number}\n" for number in range(1000)][-lines:])

    def why(self, id: str) -> str:
        return "exit code 3"

    def exec_argv(self, id: str, argv: Sequence[str], *, terminal: bool = False) -> list[str]:
        return ["env", f"IN={id}", *(["-"] if terminal else []), *argv]

    def use(self, id: str) -> Use:
        return Use()


class Images:
    """Has all images but those that are called missing."""

    def ready(self, wish: Wish) -> Ready:
        if "missing" in wish.image:
            raise NotFoundError(f"no image {wish.image}")
        return Ready(reference=wish.image, command=wish.command or ("serve",))

    def exists(self, image: str) -> ImageFound | None:
        return None

    def close(self) -> None: ...


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "a state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("SLIPWORKS_CLUSTER", "local")
    monkeypatch.setenv("TOKEN", SECRET)
    made = Engine()
    monkeypatch.setattr(backend, "get", lambda name, settings: Backend(made))
    monkeypatch.setattr(backend, "chosen", lambda settings: Backend(made))
    monkeypatch.setattr(images, "of", lambda settings, name: Images())
    yield made
    for id in list(made.pages):
        made.end(id)


@pytest.fixture
def type_(engine: Engine, capfd: pytest.CaptureFixture[str]) -> Type:
    """A command: code, stdout, stderr."""

    def run(*words: str) -> tuple[int, str, str]:
        code = cli.main(["sandbox", *words])
        told = capfd.readouterr()
        return code, told.out, told.err

    return run


def running(type_: Type, *words: str) -> dict[str, Any]:
    code, out, err = type_("run", "debian:13", "--json", *words)
    assert code == 0, err
    found: dict[str, Any] = json.loads(out)
    return found


def listed(type_: Type, *words: str) -> dict[str, str]:
    """Name and state of each."""
    code, out, _ = type_("list", "--json", *words)
    assert code == 0
    return {each["name"]: each["state"] for each in json.loads(out)}


def server_of(folder: Path, engine: Engine, **more: Any) -> Session:
    """A session that a server has in its state folder."""
    wish = Wish(session="served", image="debian:13")
    session = Session(id="a" * 16, wish=wish, phase="ready", engine="podman", key="k", began=time.time())
    session = structs.replace(session, **more)
    records.write(folder, session)
    if session.live:
        engine.starts[session.id] = Start(
            id=session.id, name=session.name, state=records.label(folder), image=Ready(reference="x")
        )
        engine.states[session.id] = "running"
    return session
