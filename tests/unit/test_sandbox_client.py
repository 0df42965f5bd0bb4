"""Asking a server of sandboxes: it ends what it serves itself, and its refusals are told by their kind."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest

from kit.errors import (
    AuthError,
    BusyError,
    InvalidFileError,
    NetworkError,
    NotFoundError,
    SlipworksError,
    UnsupportedError,
    UsageError,
)
from runner.sandboxes import places, records
from runner.sandboxes.client import Client
from tests.unit.parts_by_hand import Engine, Type, engine, server_of, type_

__all__ = ["engine", "type_"]


class Asked(BaseHTTPRequestHandler):
    """A server that notes what it is asked, and answers as the path's last part says."""

    said: ClassVar[list[tuple[str, str | None, bytes]]] = []

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        self.said.append((self.path, self.headers["X-API-Key"], raw))
        status = int(self.path[1:]) if self.path[1:].isdecimal() else 200
        self.send_response(status)
        self.send_header("Retry-After", "7")
        self.end_headers()
        self.wfile.write(b"no JSON" if status == 203 else b'{"detail":"as asked"}')

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def asked() -> Iterator[str]:
    Asked.said.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Asked) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_one_of_a_server_that_serves_is_stopped_by_it(type_: Type, engine: Engine, asked: str) -> None:
    folder = places.served()
    sessions = [server_of(folder, engine, id=id * 16) for id in "ab"]
    (folder / places.SERVER).write_text(json.dumps({"url": asked, "pid": 1, "host": "here"}))
    (folder / "key").write_text("the key\n")
    with records.held(folder):
        assert type_("stop", *(each.id for each in sessions))[0] == 0
    wanted = [("/stop", "the key", each.id) for each in sessions]
    assert sorted((path, key, json.loads(raw)["runtime_id"]) for path, key, raw in Asked.said) == wanted
    assert len(engine.states) == 2 and {each.phase for each in records.read(folder)} == {"ready"}
    (folder / places.SERVER).unlink()
    with records.held(folder):
        code, _, err = type_("stop", "a" * 16)
    assert code == 11 and "does not say there how it is asked" in err


@pytest.mark.parametrize(("status", "kind"), [
    (401, AuthError), (404, NotFoundError), (409, UsageError), (422, InvalidFileError),
    (429, BusyError), (500, NetworkError), (501, UnsupportedError), (203, NetworkError),
])  # fmt: skip
def test_a_servers_refusal_is_told_by_its_kind(status: int, kind: type[SlipworksError], asked: str) -> None:
    with (
        Client(asked, "k") as client,
        pytest.raises(kind, match="as asked" if status != 203 else "no JSON") as e,
    ):
        client.ask("POST", f"/{status}", {})
    assert not isinstance(e.value, BusyError) or e.value.seconds == 7.0


def test_a_server_that_is_not_there(asked: str) -> None:
    with Client("http://127.0.0.1:1", "k") as client, pytest.raises(NetworkError, match="does not answer"):
        client.ask("GET", "/list")
