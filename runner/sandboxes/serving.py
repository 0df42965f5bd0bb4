"""`runner sandbox serve`: the key, the desk and its HTTP side, and their end in order."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import uvicorn
from msgspec import DecodeError, json, structs

from kit import files, say
from kit.errors import LaunchError
from runner import limits
from runner.code_server import kernel
from runner.sandboxes import auth, held_port, reached, records
from runner.sandboxes.api import Served, app
from runner.sandboxes.places import SERVER
from runner.sandboxes.settings import Settings

BACKLOG = 2048
FILES = 8192
KEPT = 75
"""Seconds that a connection without a request is kept: longer than clients keep theirs."""


def serve(settings: Settings, state: Path, nodes: Sequence[str] = ()) -> int:
    """Serves sandboxes of this node until TERM or INT, and ends them then; or those of other nodes, by the
    URLs of their servers, which have the same key. On stdout its URL, once it answers.

    HeldError while another server has the state folder.
    """
    settings = structs.replace(settings, address=reached.address(settings))
    more_files()
    with records.held(state), contextlib.ExitStack() as over:
        key = auth.ensured(state)
        listening = over.enter_context(bound(settings, before(state)))
        kernel.prctl(kernel.PR_SET_DUMPABLE, 0)  # a sandbox that runs as the same user does not look into it
        served = over.enter_context(front(settings, nodes, key) if nodes else desk(settings, state))
        over.enter_context(ended_once())
        tell(served)
        run(served, key, listening, url(settings, listening), state)
    return 0


def more_files() -> None:
    """Room for a connection of each client and a port of each request that waits: shells give 1024 files."""
    soft, hard = limits.here()["nofile"]
    wanted = FILES if hard < 0 else min(FILES, hard)
    if 0 <= soft < wanted:
        limits.take({"nofile": wanted})


@contextlib.contextmanager
def desk(settings: Settings, state: Path) -> Iterator[Served]:
    """This node's desk, with the sandboxes that a server before it left; at the end all are ended."""
    from runner.sandboxes import backend, images
    from runner.sandboxes.desk import Desk

    engine = backend.chosen(settings)
    made = Desk(engine, images.of(settings, engine.name), settings, state)
    try:
        with _told_later():
            made.recover()
        yield Served(host=made, prefix=settings.prefix, engine=engine.name, limits=engine.enforced())
    finally:
        made.close()


@contextlib.contextmanager
def _told_later() -> Iterator[None]:
    """Who is told to end in the block hears it at its end: then all that is to be ended is known."""
    told: list[int] = []
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN  # of nohup
    signs = [signal.SIGTERM, signal.SIGINT, *([] if ignored else [signal.SIGHUP])]
    before = {each: signal.signal(each, lambda number, _: told.append(number)) for each in signs}
    try:
        yield
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)
    if told:
        say.say("told to end")
        signal.raise_signal(signal.SIGINT if told[0] == signal.SIGINT else signal.SIGTERM)


@contextlib.contextmanager
def front(settings: Settings, nodes: Sequence[str], key: str) -> Iterator[Served]:
    """What stands before several nodes. LaunchError where none of them answers."""
    from runner.sandboxes.front import Front

    made = Front(nodes, key)
    try:
        made.begin()
        yield Served(host=made, prefix=settings.prefix, engine=f"{len(nodes)} nodes")
    finally:
        made.close()


def configured(served: Served, key: str) -> uvicorn.Config:
    return uvicorn.Config(
        app(served, key),
        log_config=None,
        access_log=False,  # an address may hold what a client would keep to itself
        lifespan="off",
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEPT,
        timeout_graceful_shutdown=2,
    )


def run(served: Served, key: str, listening: socket.socket, url: str, state: Path) -> None:
    """Answers until it is told to end."""
    about = {"url": url, "pid": os.getpid(), "host": socket.gethostname(), "started": time.time()}
    files.write(state / SERVER, json.encode(about), mode=0o600)
    try:
        _Server(configured(served, key), url).run(sockets=[listening])
    except (SystemExit, KeyboardInterrupt):
        say.say("told to end")  # which is what a server is there for
    finally:
        (state / SERVER).unlink(missing_ok=True)


class _Server(uvicorn.Server):
    """Says its URL once it accepts requests."""

    def __init__(self, config: uvicorn.Config, url: str) -> None:
        super().__init__(config)
        self._url = url

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        say.answer(self._url)


@contextlib.contextmanager
def ended_once() -> Iterator[None]:
    """HUP is as TERM; and a second one while it ends what it started does not keep it from that."""
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # of nohup
        signal.signal(signal.SIGHUP, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    try:
        yield
    finally:
        for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(each, signal.SIG_IGN)


def before(state: Path) -> int:
    """The port of a server that was killed, for its clients still ask there; 0: none was."""
    with contextlib.suppress(OSError, DecodeError, KeyError, TypeError, ValueError):
        return int(str(json.decode((state / SERVER).read_bytes())["url"]).rpartition(":")[2])
    return 0


@contextlib.contextmanager
def bound(settings: Settings, before: int = 0) -> Iterator[socket.socket]:
    """The server's socket, before anything is begun. LaunchError where it cannot listen there.

    before: a port that is taken where none was asked for, if it is free. Else it is one that no outgoing
    connection takes, so that also whoever comes after us finds it free.
    """
    family = socket.AF_INET6 if ":" in settings.listen else socket.AF_INET
    # Only where the protocol is named does asyncio switch Nagle's delay off: 40 ms of each answer otherwise.
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as made:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if settings.port or not (_binds(made, settings.listen, before) or _chosen(made, settings.listen)):
            try:
                made.bind((settings.listen, settings.port))
            except OSError as refused:
                where = f"{settings.listen} port {settings.port}"
                raise LaunchError(
                    f"the sandbox server cannot listen on {where}: {refused.strerror}",
                    f"ss -ltnp 'sport = :{settings.port}'; runner sandbox serve --port OTHER",
                ) from refused
        yield made


def _binds(made: socket.socket, address: str, port: int) -> bool:
    with contextlib.suppress(OSError, OverflowError):
        if port:
            made.bind((address, port))
            return True
    return False


def _chosen(made: socket.socket, address: str) -> bool:
    """Binds to the first that nobody has, also not who does not listen yet: a reused address would be shared
    with another who begins now."""
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    try:
        return any(_binds(made, address, each) for each in held_port.numbers())
    finally:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)


def url(settings: Settings, listening: socket.socket) -> str:
    host = settings.address or settings.listen
    return f"http://{reached.bracketed(host)}:{listening.getsockname()[1]}"


def tell(served: Served) -> None:
    """How it works, on stderr."""
    counts = served.host.counts()
    say.say(f"sandboxes by {served.engine}, {counts.slots} slots, {counts.free} free")
    if served.limits:
        say.say("limits: " + ", ".join(f"{what} {how}" for what, how in served.limits.items()))
    if served.host.pauses:
        say.say(f"note: no sandbox can be paused here: {served.host.pauses}")
