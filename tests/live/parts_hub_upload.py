"""A server that takes uploads as the Hugging Face hub does: repositories, modes, large files, commits.

What it answers was read off what huggingface_hub 2.4 asks for. It keeps what it gets, for tests to look at.
Large files come the older way (LFS): the newer one, Xet, is a protocol of its own: HF_HUB_DISABLE_XET is set.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from http.server import ThreadingHTTPServer
from typing import Any

from tests.live.parts_answering import Answering

TOKEN = "hf_s3cretToken"
LARGE = 1 << 12  # bytes; below them a file travels within its commit


class HubServer:
    """The hub. `wrong` is asked of each request: an HTTP status makes it that answer.

    private: repositories -> whether they are; files: of their main branches; large: by sha256.
    """

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.private: dict[str, bool] = {}
        self.files: dict[str, bytes] = {}
        self.large: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.wrong: Callable[[str], int] = lambda asked: 0
        outer = self

        class Handler(_Handler):
            hub = outer

        self._server = ThreadingHTTPServer((host, 0), Handler)
        self.url = f"http://{host}:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(Answering):
    hub: HubServer

    def _refused(self, asked: str) -> bool:
        self.hub.asked.append(asked)
        status = self.hub.wrong(asked)
        if not status and self.headers.get("Authorization") != f"Bearer {TOKEN}" and asked != "large":
            status = 401
        if status:
            self.say(status, {"error": f"refused: {status}"})
        return bool(status)

    def do_GET(self) -> None:
        if not self._refused("look"):
            self.say(200, {"id": "org/made", "sha": "0" * 40, "siblings": [], "private": True})

    def do_PUT(self) -> None:
        raw = self.body()
        if self._refused("large"):
            return
        oid = self.path.rpartition("/")[2]
        assert hashlib.sha256(raw).hexdigest() == oid
        self.hub.large[oid] = raw
        self.say(200, {})

    def do_POST(self) -> None:
        raw = self.body()
        if self.path == "/api/repos/create":
            if not self._refused("create"):
                said = json.loads(raw)
                name = f"{said['organization']}/{said['name']}"
                there = name in self.hub.private
                self.hub.private.setdefault(name, said.get("private") or said.get("visibility") == "private")
                url = f"{self.hub.url}/{name}"
                self.say(409 if there else 200, {"url": url, "name": name, "error": "You already created it"})
        elif self.path.endswith("/info/lfs/objects/batch"):
            if not self._refused("batch"):
                self.say(
                    200,
                    {
                        "transfer": "basic",
                        "objects": [self._object(each) for each in json.loads(raw)["objects"]],
                    },
                )
        elif "/preupload/" in self.path:
            if not self._refused("preupload"):
                self.say(200, {"files": [self._mode(each) for each in json.loads(raw)["files"]]})
        elif re.search(r"/commit/[^/]+$", self.path):
            if not self._refused("commit"):
                self._commit(raw)
        elif self.path.endswith("/verify"):
            self.say(200, {})
        else:
            self.say(404, {"error": f"no such thing: {self.path}"})

    def _mode(self, said: dict[str, Any]) -> dict[str, Any]:
        mode = "lfs" if said["size"] >= LARGE else "regular"
        return {"path": said["path"], "uploadMode": mode, "shouldIgnore": False, "oid": None}

    def _object(self, said: dict[str, Any]) -> dict[str, Any]:
        if said["oid"] in self.hub.large:
            return {"oid": said["oid"], "size": said["size"]}
        return {
            "oid": said["oid"], "size": said["size"], "authenticated": True,
            "actions": {"upload": {"href": f"{self.hub.url}/put/{said['oid']}", "header": {}}},
        }  # fmt: skip

    def _commit(self, raw: bytes) -> None:
        for line in map(json.loads, raw.splitlines()):
            if line["key"] == "file":
                self.hub.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "lfsFile":
                self.hub.files[line["value"]["path"]] = self.hub.large[line["value"]["oid"]]
        self.say(200, {
            "commitUrl": f"{self.hub.url}/org/made/commit/1", "commitOid": "1" * 40, "hookOutput": "",
            "pullRequestUrl": None, "success": True,
        })  # fmt: skip
