"""A desk with an engine that is a table: for what the desk, the API and the commands do by themselves."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kit.errors import NotFoundError, VerifyError
from runner.sandboxes.backend import State
from runner.sandboxes.desk import Desk
from runner.sandboxes.host import ImageFound
from runner.sandboxes.nouns import Limits, Phase, Ready, Session, Start, Use, Wish
from runner.sandboxes.settings import Settings

WITHIN = 10.0  # seconds for what takes milliseconds
PATIENCE = 30.0  # seconds for what several threads do one after the other


class Engine:
    """Its containers outlive every desk that is made of it.

    alive   of an id: whether its server says so; all do unless told otherwise.
    idle    of an id: seconds since its server was busy.
    refuse  raised at the next start. hold: starts wait for it. stuck: ends fail while it is set.
    odd     ids whose ends fail in a way that nobody foresaw.
    """

    name = "podman"

    def __init__(self) -> None:
        self.pauses: str | None = None
        self.containers: dict[str, State] = {}
        self.started: dict[str, Start] = {}
        self.stopped: list[str] = []
        self.adopted: dict[str, Limits] = {}
        self.log: dict[str, str] = {}
        self.alive: dict[str, bool] = {}
        self.idle: dict[str, float] = {}
        self.refuse: list[Exception] = []
        self.hold = threading.Event()
        self.hold.set()
        self.stuck = threading.Event()
        self.odd: set[str] = set()

    def check(self) -> str:
        return "1"

    def enforced(self) -> dict[str, str]:
        return dict.fromkeys(("cpus", "memory", "pids", "disk", "network"), "told")

    def start(self, start: Start) -> str:
        self.hold.wait(WITHIN)
        if self.refuse:
            raise self.refuse.pop()
        self.started[start.id], self.containers[start.id] = start, "running"
        return start.url

    def adopt(self, id: str, limits: Limits, folder: str) -> None:
        self.adopted[id] = limits

    def states(self, state: str) -> dict[str, State]:
        return dict(self.containers)

    def pause(self, id: str) -> None:
        self.containers[id] = "paused"

    def resume(self, id: str) -> None:
        self.containers[id] = "running"

    def stop(self, id: str, grace: float = 10.0) -> None:
        if self.stuck.is_set():
            raise VerifyError("the engine says no")
        if id in self.odd:
            raise ZeroDivisionError(f"stop {id}")
        self.stopped.append(id)
        self.containers.pop(id, None)

    def logs(self, id: str, lines: int = 100) -> str:
        return "".join(self.log.get(id, "").splitlines(keepends=True)[-lines:])

    def why(self, id: str) -> str:
        return "exit code 7"

    def exec_argv(self, id: str, argv: Sequence[str], *, terminal: bool = False) -> list[str]:
        return ["true"]

    def use(self, id: str) -> Use:
        return Use()

    def agent(self, url: str, key: str) -> Agent:
        found = [each for each in list(self.started.values()) if each.url == url]
        return Agent(self, found[-1].id if found else "")


class Agent:
    """What an agent-server would say."""

    def __init__(self, engine: Engine, id: str) -> None:
        self.engine, self.id = engine, id

    def __enter__(self) -> Agent:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def alive(self) -> bool:
        return self.engine.containers.get(self.id) == "running" and self.engine.alive.get(self.id, True)

    def idle(self) -> float | None:
        return self.engine.idle.get(self.id)


class Gallery:
    """Images: all that do not begin with "no". hold: they are brought no sooner."""

    def __init__(self) -> None:
        self.asked: list[Wish] = []
        self.hold = threading.Event()
        self.hold.set()

    def ready(self, wish: Wish) -> Ready:
        self.asked.append(wish)
        self.hold.wait(WITHIN)
        if wish.image.startswith("no"):
            raise NotFoundError(f"there is no image {wish.image}", "look again")
        return Ready(reference=wish.image, command=("server",))

    def close(self) -> None:
        self.hold.set()

    def exists(self, image: str) -> ImageFound | None:
        return None if image.startswith("no") else ImageFound(size=5, uploaded="2026-01-01T00:00:00Z")


def made(
    folder: Path, engine: Engine | None = None, gallery: Gallery | None = None, *, slots: int = 6,
    processors: Sequence[int] = range(16), memory: int = 1 << 40, clock: Callable[[], float] = time.time,
    **settings: Any,
) -> Desk:  # fmt: skip
    """A desk that was not begun yet."""
    engine = engine or Engine()
    asked = Settings(**{"cpus": 2, "slots": slots, **settings})
    return Desk(
        engine, gallery or Gallery(), asked, folder,
        processors=processors, memory=memory, clock=clock, agent=engine.agent,
    )  # fmt: skip


def wish(session: str = "one", image: str = "image", **more: Any) -> Wish:
    return Wish(session=session, image=image, **more)


def until(true: Callable[[], object], what: str = "it") -> None:
    """Waits for what another thread does."""
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, f"{what} did not happen"
        time.sleep(0.005)


def reached(desk: Desk, session: str, phase: Phase) -> Session:
    """The session once it is so."""
    found: list[Session] = []

    def there() -> bool:
        found[:] = [each for each in [desk.find(session)] if each]
        return bool(found) and found[0].phase == phase

    until(there, f"{session} {phase}: {found}")
    return found[0]
