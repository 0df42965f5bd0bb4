"""Sandboxes by hand: a command starts one and ends, and the sandbox goes on until another command ends it.

No server looks after them: nobody ends one for its age, and a limit that the engine cannot hold is not held.
"""

from __future__ import annotations

import re
import secrets
import time
from pathlib import Path
from typing import Any

from msgspec import Struct, structs

from kit import process, say, shell
from kit.errors import NotFoundError, UsageError, VerifyError
from runner.agent_client import Agent
from runner.sandboxes import backend, bringing, held_port, here, images, places, records, wished
from runner.sandboxes.backend import Backend
from runner.sandboxes.host import Images
from runner.sandboxes.nouns import Ready, Session, Wish
from runner.sandboxes.settings import Settings

POLL = 0.05
LOOK = 1.0  # seconds between two questions to the engine while a server comes up
GRACE = 2.0  # for one that did not come up
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


class Asked(Struct, frozen=True, kw_only=True):
    """What to start; a session without a name gets one."""

    wish: Wish
    settings: Settings = Settings()


def started(asked: Asked, folder: Path | None = None) -> Session:
    """A sandbox whose server is alive; its record lies in `folder`, the user's own unless given.

    On failure, or when it is interrupted, nothing of it is left; the error has the end of its log.
    """
    wished.demand(asked.wish)
    folder = folder or places.by_hand()
    if asked.wish.session:
        _demand_free(asked.wish.session, folder)
    engine = backend.chosen(asked.settings)
    having, coming = images.of(asked.settings, engine.name), _Coming(asked, folder, engine)
    try:
        session = coming.all(having)
    finally:
        having.close()
        coming.port.release()
    if unheld := [limit for limit, how in engine.enforced().items() if how == "watched"]:
        told = ", ".join(unheld)
        say.say(f"note: nothing limits its {told}: {engine.name} cannot here, and no server watches it")
    return session


def plan(asked: Asked) -> dict[str, Any]:
    """What would be started, for people and programs; nothing is asked of an engine. No variable's value."""
    settings, wish = asked.settings, asked.wish
    wished.demand(wish)
    return {
        "image": wish.image,
        "engine": settings.engine or f"the first that works here of {', '.join(backend.FIRST)}",
        "command": list(wish.command),
        "env": sorted(wish.env),
        "network": settings.network,
        "memory_mb": settings.memory,
        "pids": settings.pids,
        "disk_mb": settings.disk,
        "state_folder": str(places.by_hand()),
    }


def name_for(image: str, id: str) -> str:
    """A name that tells the image: `python-3f2a`. Pure."""
    last = image.rstrip("/").rpartition("/")[2].partition("@")[0].partition(":")[0].removesuffix(".sif")
    word = re.sub(r"[^A-Za-z0-9_.-]", "-", last).strip("-._")
    return f"{word[:50] or 'sandbox'}-{id[:4]}"


def _demand_free(name: str, folder: Path) -> None:
    if not NAME.fullmatch(name):
        raise UsageError(f"found the name {name!r}, expected letters, digits, dots and hyphens")
    for each in here.every([folder]):
        if each.name == name:
            raise UsageError(
                f"there is a sandbox {name} already: it is {each.state}", f"runner sandbox stop {name}"
            )


def _ready(images: Images, wish: Wish) -> Ready:
    try:
        return images.ready(wish)
    except NotFoundError as absent:
        if wish.pull != "Never":
            raise
        hint = shell.line(["runner", "sandbox", "run", wish.image, "--pull", "missing"])
        raise NotFoundError(absent.message, hint) from absent


class _Coming:
    """A sandbox on its way up."""

    def __init__(self, asked: Asked, folder: Path, engine: Backend) -> None:
        self.asked, self.folder, self.engine = asked, folder, engine
        self.address, id = asked.settings.address or "127.0.0.1", secrets.token_hex(8)
        self.port = held_port.hold(self.address)
        wish = structs.replace(asked.wish, session=asked.wish.session or name_for(asked.wish.image, id))
        self.session = Session(
            id=id, wish=wish, key=secrets.token_hex(24), engine=engine.name, phase="starting",
            url=f"http://{self.address}:{self.port.number}", began=time.time(),
        )  # fmt: skip

    def all(self, images: Images) -> Session:
        """The session when it is ready. Who is killed outright leaves its record, by which `stop` ends it."""
        wish = self.session.wish
        with say.step(f"bringing {wish.image}"):
            ready = _ready(images, wish)
        self._known()
        try:
            with say.step(f"starting {wish.session}"):
                self.port.release()
                label = records.label(self.folder)
                start = bringing.start_of(
                    self.session, ready, self.asked.settings, self.address, self.folder, label
                )
                self.engine.start(start)
                self._known(started=time.time())
                self._alive()
        except BaseException:
            self.engine.stop(self.session.id, grace=GRACE)
            records.drop(self.folder, self.session.id)
            raise
        return self._known(phase="ready", ready=time.time(), used=time.time())

    def _known(self, **more: Any) -> Session:
        self.session = structs.replace(self.session, **more)
        records.write(self.folder, self.session)
        return self.session

    def _alive(self) -> None:
        """VerifyError, with the end of its log, where it ends or does not come up in time."""
        within = self.asked.settings.start_within
        began = looked = time.monotonic()
        with Agent(self.session.url, self.session.key) as agent:
            while not agent.alive():
                now = time.monotonic()
                if now > looked + LOOK:
                    looked = now
                    self._lives()
                if now > began + within:
                    raise self._failed(f"does not answer /alive after {within:g} s")
                time.sleep(POLL)

    def _lives(self) -> None:
        id = self.session.id
        if self.engine.states(records.label(self.folder)).get(id, here.ENDED) == here.ENDED:
            raise self._failed(f"ended: {self.engine.why(id) or 'it is not known why'}")

    def _failed(self, what: str) -> VerifyError:
        text = self.engine.logs(self.session.id, process.TAIL)
        lines = "".join(f"\n  {line[:300]}" for line in text.splitlines() if line.strip())
        told = f", its last lines:{lines}" if lines else ""
        return VerifyError(f"a sandbox of {self.session.wish.image} {what}{told}")
