"""Proof that baked images work: each is started as its clients start it, and its agent-server is driven.

Of every image: the client's command with the entrypoint kept, and with it cleared; /alive; a command in the
base's own environment; a file there and back; the end at TERM. Images that were pulled for it are removed
again, so that thousands need no more room than those that are proved at once.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from msgspec import Struct, json, structs

from containers import complaints
from containers.engine import Engine
from image_cache import references
from image_cache.bake import BASE_DIGEST, BASE_NAME, KEY
from image_cache.places import Origin
from image_cache.prebuild.planning import error_class
from image_cache.prebuild.schema import ErrorClass
from kit import process
from kit.errors import NetworkError, SlipworksError, UnsupportedError, VerifyError
from kit.nouns import Platform
from runner import client_folder, sandbox
from runner.agent_layer import CLIENT, CLIENT_LABEL
from runner.sandbox import Network, Sandbox, Start

PULL = 3600.0  # seconds that a pull may take
SEPARATOR = "\036"
OURS = re.compile(r"OH_|OTEL_|LMNR_|SESSION_API_KEY|HOME$|PATH$|TERM$|HOSTNAME$|PWD$|AI_AGENT$")
"""Variables that server or engine set or take away by themselves, and those that are looked at apart."""
LEAKS = ("LD_LIBRARY_PATH", "LD_PRELOAD", "PYTHONHOME", "PYTHONPATH")
"""Variables by which the layer could change what the base's programs load."""


class Step(Struct, frozen=True):
    """What was done with a sandbox, and what there is to tell of it."""

    name: str
    seconds: float
    told: str = ""


class Proof(Struct, frozen=True, kw_only=True):
    """What became of one image. ready: seconds until its server was alive, started as its clients do it.
    notes: what is as it should not be and yet works."""

    image: str
    base: str = ""
    steps: tuple[Step, ...] = ()
    ready: float | None = None
    notes: tuple[str, ...] = ()
    error_class: ErrorClass | None = None
    error: str | None = None

    @property
    def good(self) -> bool:
        return self.error is None


class Asked(Struct, frozen=True, kw_only=True):
    """How images are proved. jobs: so many at once. deadline: seconds for a server to come up.
    layer: the unpacked layer, by which bases are looked into; None: they are not compared with."""

    engine: Engine
    platform: Platform
    jobs: int = 2
    network: Network = "own"
    deadline: float = 120.0
    layer: Path | None = None


def prove(images: Sequence[str], asked: Asked, tell: Callable[[Proof], None]) -> list[Proof]:
    """The proofs, in the order of the images, each of which is told when it is there; what goes wrong with an
    image is its proof's to say. An interruption ends the containers first."""
    if asked.platform != Platform.host():
        raise UnsupportedError(f"images for {asked.platform} cannot be started on {Platform.host()}")
    stop = threading.Event()
    found: dict[str, Proof] = {}
    turns: Turns = {}
    with tempfile.TemporaryDirectory(prefix="slipworks-proof-") as name:
        pool = ThreadPoolExecutor(asked.jobs)
        try:
            waiting = {pool.submit(_one, image, asked, Path(name), stop, turns): image for image in images}
            for done in as_completed(waiting):
                found[waiting[done]] = done.result()
                tell(done.result())
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)
    return [found[image] for image in images]


Turns = dict[str, threading.Lock]


def _one(image: str, asked: Asked, folder: Path, stop: threading.Event, turns: Turns) -> Proof:
    work = _Work(image, asked, folder, stop, turns)
    try:
        work.all()
    except Exception as failure:  # what nobody foresaw harms this proof alone
        foreseen = isinstance(failure, (SlipworksError, OSError))
        told = failure.message if isinstance(failure, SlipworksError) else str(failure)
        if not foreseen:
            told = f"{type(failure).__name__}: {told}"
        return structs.replace(work.proof(), error_class=error_class(failure), error=told)
    return work.proof()


class _Work:
    """One image on its way through the steps."""

    def __init__(self, image: str, asked: Asked, folder: Path, stop: threading.Event, turns: Turns) -> None:
        self.image, self.asked, self.folder, self.stop, self.turns = image, asked, folder, stop, turns
        self.steps: list[Step] = []
        self.notes: list[str] = []
        self.base, self.ready = "", None

    ready: float | None

    def proof(self) -> Proof:
        steps, notes = tuple(self.steps), tuple(self.notes)
        return Proof(image=self.image, base=self.base, steps=steps, ready=self.ready, notes=notes)

    def all(self) -> None:
        with self._had(Origin.parse(self.image)) as name:
            labels, env = _said(self.asked.engine, name)
            self.base = labels.get(BASE_NAME, "")
            self._as_clients_do(name, env)
            if KEY not in labels or CLIENT_LABEL in labels:
                self._entrypoint_cleared(name)
            else:  # the bake was told to leave it out
                self.notes.append(f"{CLIENT} was not baked: only the entrypoint starts the server")
            if self.asked.layer and self.base and CLIENT_LABEL in labels:
                if BASE_DIGEST in labels:
                    self._compared(name, Origin.parse(self.base).at(labels[BASE_DIGEST]), self.asked.layer)
                else:
                    self.notes.append(f"not compared with its base: the label {BASE_DIGEST} is missing")

    @contextlib.contextmanager
    def _step(self, name: str) -> Iterator[list[str]]:
        began, told = time.monotonic(), list[str]()
        yield told
        self.steps.append(Step(name, time.monotonic() - began, "; ".join(told)))

    @contextlib.contextmanager
    def _had(self, origin: Origin) -> Iterator[str]:
        """The engine has an image while the block lasts, under the name that is given; what it had before, it
        keeps. Of images that several have for a base, one at a time is had."""
        if origin.kind == "registry" and origin.digest:  # engines take a tag or a digest
            origin = Origin("registry", origin.place, origin.repository, digest=origin.digest)
        engine, name = self.asked.engine, str(origin)
        with self.turns.setdefault(name, threading.Lock()):
            if engine.has(name) is not None:
                yield name
                return
            with self._step("pull"):
                name = pulled(engine, origin, self.asked.platform, self.stop)
            try:
                yield name
            finally:
                process.finish(engine.remove_image_argv(name), what=f"remove {name}")

    def _started(self, name: str, *, entrypoint: bool) -> contextlib.AbstractContextManager[Sandbox]:
        start = Start(
            engine=self.asked.engine, image=name, entrypoint=entrypoint, network=self.asked.network,
            deadline=self.asked.deadline,
        )  # fmt: skip
        return sandbox.started(start, self.folder, self.stop)

    def _as_clients_do(self, name: str, env: dict[str, str]) -> None:
        with contextlib.ExitStack() as stack:
            with self._step("start"):
                running = stack.enter_context(self._started(name, entrypoint=True))
            self.ready = running.ready
            with self._step("command"):
                _environment(running, env)
            with self._step("files"):
                _there_and_back(running)
            with self._step("stop"):
                running.stop()

    def _entrypoint_cleared(self, name: str) -> None:
        with self._step("client path"):
            try:
                with self._started(name, entrypoint=False) as running:
                    running.stop()
            except VerifyError as failure:
                raise VerifyError(
                    f"with its entrypoint cleared, {failure.message}", failure.hint
                ) from failure

    def _compared(self, name: str, base: Origin, layer: Path) -> None:
        """Notes what became of the client path's folder. Not to learn it is no fault of the image."""
        engine = self.asked.engine
        with self._step("folder") as told:
            try:
                with self._had(base) as below:
                    before = client_folder.seen(engine, below, layer)
                after = client_folder.seen(engine, name)
            except SlipworksError as failure:
                told.append(f"not compared: {failure.message.splitlines()[0]}")
                return
            if different := client_folder.difference(before, after):
                self.notes.append(different)


def pulled(
    engine: Engine, origin: Origin, platform: Platform, stop: threading.Event | None = None, *,
    within: float = PULL,
) -> str:  # fmt: skip
    """Lets the engine pull an image; returns what it calls it. Errors of the kind that it tells of.

    Once `stop` is set, or after `within` seconds, the pull is ended.
    """
    local, stop = origin.kind != "registry", stop or threading.Event()
    given = f"{origin.kind}:{origin.place}{f':{origin.tag}' if origin.tag else ''}" if local else str(origin)
    insecure = not local and references.api(origin.place).startswith("http://")
    argv = engine.pull_argv(given, platform, insecure=insecure)
    with tempfile.NamedTemporaryFile(prefix="slipworks-pull-") as log:
        child = process.start(argv, what=f"pull {origin}", log=Path(log.name))
        end = time.monotonic() + within
        try:
            while child.poll() is None and time.monotonic() < end and not stop.wait(sandbox.POLL):
                pass
        finally:
            if late := child.poll() is None:
                process.end_group(child)
        if late and not stop.is_set():
            raise NetworkError(f"could not pull {origin}: it is not here after {within:g} s", "try again")
        said = Path(log.name).read_text(errors="replace")
    if child.returncode:
        raise complaints.explain(f"pull {origin}", said, str(origin), code=child.returncode)
    return said.split()[-1] if local else given


def _said(engine: Engine, reference: str) -> tuple[dict[str, str], dict[str, str]]:
    """Labels and variables of an image that the engine has."""
    done = process.run(engine.inspect_argv(reference), what=f"look at {reference}")
    config = json.decode(done.out)
    env = dict(each.partition("=")[::2] for each in config.get("Env") or ())
    return dict(config.get("Labels") or {}), env


def _environment(running: Sandbox, env: dict[str, str]) -> None:
    """A command of the base sees the base's variables, and none by which the layer would show."""
    given = {name: value for name, value in env.items() if re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name)}
    wanted = dict.fromkeys(LEAKS, "") | {name: value for name, value in given.items() if not OURS.match(name)}
    names = ["PATH", *wanted]
    values = " ".join(f'"${name}"' for name in names)
    ran = running.agent.command(f"printf '%s\\036' {values}")
    found = ran.out.split(SEPARATOR)
    if ran.code or len(found) != len(names) + 1:
        raise VerifyError(
            f"a command in the sandbox ended with {ran.code}: {(ran.err or ran.out)[-300:].strip()}"
        )
    path, *rest = found[:-1]
    if not f"{path}:".startswith(f"{env.get('PATH', path)}:"):
        raise VerifyError(f"PATH of a command begins otherwise than the base's: found {path}")
    for name, value in zip(wanted, rest, strict=True):
        if value != wanted[name]:
            raise VerifyError(f"{name} of a command is {value!r}: the base has {wanted[name]!r}")


def _there_and_back(running: Sandbox) -> None:
    raw = os.urandom(100_000)
    path = f"/tmp/slipworks-proof-{raw[:8].hex()}/a file"
    running.agent.upload(path, raw)
    if (found := running.agent.download(path)) != raw:
        raise VerifyError(f"{path}: {len(raw)} bytes were uploaded, and other {len(found)} came back")
