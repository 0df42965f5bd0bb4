"""Sandbox servers in this process, each with a desk whose engine is a table, asked over HTTP."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn

from runner.sandboxes import serving
from runner.sandboxes.api import Served
from runner.sandboxes.client import Client
from runner.sandboxes.host import Host
from runner.sandboxes.settings import Settings
from tests.unit.parts_desk import WITHIN, Engine, made, until

KEY = "0123456789abcdef" * 4


@contextlib.contextmanager
def served(host: Host, port: int = 0) -> Iterator[str]:
    """Its URL, while the block lasts."""
    settings = Settings(port=port)
    with serving.bound(settings) as listening:
        server = uvicorn.Server(serving.configured(Served(host=host), KEY))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        until(lambda: server.started, "a server")
        try:
            yield serving.url(settings, listening)
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
        self.url = self._server.enter_context(served(self.desk, port))

    def down(self) -> None:
        self._server.close()

    def end(self) -> None:
        self.down()
        self.desk.close()

    def ask(self, method: str, path: str, **body: Any) -> dict[str, Any]:
        with Client(self.url, KEY) as client:
            return client.ask(method, path, body or None)
