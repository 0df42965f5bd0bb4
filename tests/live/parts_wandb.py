"""A server that speaks what `wandb sync` needs of Weights & Biases: GraphQL, file_stream, uploads by address.

What it answers was read off what wandb 0.31.0 asks for. It keeps what it gets, so that a test can look.
"""

from __future__ import annotations

import gzip
import json
import re
import threading
from http.server import ThreadingHTTPServer
from typing import Any

from tests.live.parts_answering import Answering

KEY = "k" * 40


class Kept:
    """A run as the server has it. history: its rows by their line; files: by name; asked: requests for it."""

    def __init__(self) -> None:
        self.history: dict[int, dict[str, Any]] = {}
        self.files: dict[str, bytes] = {}
        self.complete: list[bool] = []


class Wandb:
    """The server. `wrong` is asked of each request: an HTTP status makes it that answer, -1 hangs up."""

    def __init__(self) -> None:
        self.runs: dict[str, Kept] = {}
        self.asked: list[str] = []
        self.wrong = lambda asked: 0
        outer = self

        class Handler(_Handler):
            kept = outer

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def rewards(self, run: str) -> list[float]:
        kept = self.runs[run].history
        assert sorted(kept) == list(range(len(kept))), "rows are missing"
        return [kept[line]["reward"] for line in sorted(kept)]


class _Handler(Answering):
    kept: Wandb

    def handle(self) -> None:
        try:
            super().handle()
        except ConnectionError:  # as a client that is ended leaves one
            self.close_connection = True

    def body(self) -> bytes:
        raw = super().body()
        return gzip.decompress(raw) if self.headers.get("Content-Encoding") == "gzip" else raw

    def _refused(self, asked: str) -> bool:
        self.kept.asked.append(asked)
        status = self.kept.wrong(asked)
        if status > 0:
            self.say(status, {"errors": [{"message": f"you are not logged in ({status})"}]})
        elif status < 0:
            self.close_connection = True
            self.connection.close()
        return status != 0

    def do_PUT(self) -> None:
        raw = self.body()
        _, _, run, name = self.path.split("/", 3)
        if not self._refused(f"PUT {name}"):
            self.kept.runs[run].files[name] = raw
            self.say(200, {})

    def do_POST(self) -> None:
        raw = self.body()
        if self.path == "/graphql":
            self._graphql(json.loads(raw))
        elif found := re.fullmatch(r"/files/us/([^/]+)/([^/]+)/file_stream", self.path):
            if not self._refused("file_stream"):
                self._stream(self.kept.runs[found[2]], json.loads(raw))
                self.say(200, {"limits": {}})
        else:  # its telemetry
            self.say(404, {})

    def _graphql(self, asked: dict[str, Any]) -> None:
        named = re.search(r"(?:query|mutation)\s+(\w+)", asked["query"])
        assert named
        said = asked.get("variables") or {}
        if self._refused(named[1]):
            return
        basic = self.headers.get("Authorization", "")
        if KEY not in _decoded(basic):
            self.say(401, {"errors": [{"message": "user is not logged in"}]})
        elif named[1] == "UpsertBucket":
            self.say(200, {"data": {"upsertBucket": {"inserted": True, "bucket": self._bucket(said)}}})
        elif named[1] == "CreateRunFiles":
            places = [{"name": each, "uploadUrl": f"{self.kept.url}/storage/{said['run']}/{each}"}
                      for each in said["files"]]  # fmt: skip
            self.say(200, {"data": {"createRunFiles": {"runID": "B", "uploadHeaders": [], "files": places}}})
        else:
            self.say(200, {"data": {}})

    def _bucket(self, said: dict[str, Any]) -> dict[str, Any]:
        kept = self.kept.runs.setdefault(said["name"], Kept())
        return {
            "id": "B", "name": said["name"], "displayName": said["name"], "description": None, "config": "{}",
            "sweepName": None, "historyLineCount": len(kept.history),
            "project": {"id": "P", "name": said["project"], "entity": {"id": "E", "name": "us"}},
        }  # fmt: skip

    def _stream(self, kept: Kept, said: dict[str, Any]) -> None:
        history = said.get("files", {}).get("wandb-history.jsonl", {"offset": 0, "content": []})
        for line, row in enumerate(history["content"], history["offset"]):
            kept.history[line] = json.loads(row)
        if "complete" in said:
            kept.complete.append(bool(said["complete"]))


def _decoded(basic: str) -> str:
    import base64

    return base64.b64decode(basic.removeprefix("Basic ")).decode()
