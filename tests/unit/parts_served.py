"""Sandbox servers in this process, each with a desk whose engine is a table, asked over HTTP."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn

from runner.sandboxes.api import Served, app
from runner.sandboxes.client import Client
from runner.sandboxes.host import Host
from tests.unit.parts_desk import WITHIN, Engine, made, until

KEY = "0123456789abcdef" * 4


@contextlib.contextmanager
def serving(host: Host, port: int = 0) -> Iterator[str]:
    """Its URL, while the block lasts."""
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(("127.0.0.1", port))
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    config = uvicorn.Config(app(Served(host=host), KEY), log_config=None, access_log=False, lifespan="off",
                            timeout_graceful_shutdown=1)  # fmt: skip
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    until(lambda: server.started, "a server")
    try:
        yield url
    finally:
        server.should_exit = True
        thread.join(WITHIN)
        assert not thread.is_alive()


class Place:
    """A node: its desk goes on while its server is away."""

    def __init__(self, folder: Path, slots: int, **settings: Any) -> None:
        self.engine = Engine()
        self.desk = made(folder, self.engine, slots=slots, **settings)
        self.desk.recover()
        self.url = ""
        self._server = contextlib.ExitStack()
        self.up()

    def up(self) -> None:
        port = int(self.url.rpartition(":")[2] or 0)
        self.url = self._server.enter_context(serving(self.desk, port))

    def down(self) -> None:
        self._server.close()

    def end(self) -> None:
        self.down()
        self.desk.close()

    def ask(self, method: str, path: str, **body: Any) -> dict[str, Any]:
        with Client(self.url, KEY) as client:
            return client.ask(method, path, body or None)
