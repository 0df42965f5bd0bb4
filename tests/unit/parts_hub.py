"""A stand-in for the hub on this machine: what huggingface_hub asks it for, and what can go wrong."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from msgspec import Struct

LARGE = (".safetensors", ".parquet", ".bin")
"""Files of these names are kept as large ones: by the hash of their content."""


class Repository(Struct):
    """One of the hub. revisions: branch -> commit; commits: commit -> path -> content."""

    kind: str
    id: str
    revisions: dict[str, str]
    commits: dict[str, dict[str, bytes]]
    token: str | None = None
    gated: bool = False

    @property
    def under(self) -> str:
        return f"datasets/{self.id}" if self.kind == "dataset" else self.id


class Asked(Struct, frozen=True):
    """A request that came. first: where a range of bytes begins."""

    method: str
    path: str
    first: int | None = None
    authorization: str | None = None


class StandIn:
    """The server. What is put into the faults happens to requests for files whose name ends so.

    cut      bytes after which the connection is closed, how often; after_cut: the status from then on.
    stall    bytes after which nothing comes before `go_on`; `stalled` tells that it is so.
    spoilt   another content is sent.
    status   this code is answered, to everything.
    rangeless  ranges are not known: all is sent from the beginning.
    """

    def __init__(self) -> None:
        self.repositories: list[Repository] = []
        self.asked: list[Asked] = []
        self.sent = 0
        self.cut: dict[str, list[int]] = {}
        self.spoilt: set[str] = set()
        self.status: dict[str, int] = {}
        self.after_cut: int | None = None
        self.rangeless = False
        self.stall: dict[str, int] = {}
        self.stalled, self.go_on = threading.Event(), threading.Event()
        self._lock = threading.Lock()

    def publish(
        self, kind: str, id: str, files: dict[str, bytes], revision: str = "main", **more: object
    ) -> str:
        """A new commit of a repository, to which the branch leads from now on; the commit."""
        commit = hashlib.sha1(repr((kind, id, sorted(files.items()))).encode()).hexdigest()
        for each in self.repositories:
            if (each.kind, each.id) == (kind, id):
                each.revisions[revision] = commit
                each.commits[commit] = files
                return commit
        self.repositories.append(Repository(kind, id, {revision: commit}, {commit: files}, **more))  # type: ignore[arg-type]
        return commit

    def gets(self, name: str) -> list[Asked]:
        """The requests for a file's bytes."""
        return [each for each in self.asked if each.method == "GET" and each.path.endswith(f"/{name}")]

    def note(self, asked: Asked) -> None:
        with self._lock:
            self.asked.append(asked)

    def next_cut(self, path: str) -> int | None:
        with self._lock:
            for name, cuts in self.cut.items():
                if path.endswith(name) and cuts:
                    if self.after_cut:
                        self.status[name] = self.after_cut
                    return cuts.pop(0)
        return None


@contextmanager
def serving(hub: StandIn) -> Iterator[str]:
    """Its address, while it answers."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        hub.go_on.set()
        server.shutdown()
        server.server_close()
        thread.join()


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def etag(path: str, content: bytes) -> str:
    return hashlib.sha256(content).hexdigest() if path.endswith(LARGE) else git_hash(content)


class _Refused(Exception):
    def __init__(self, code: int, **headers: str) -> None:
        super().__init__(code)
        self.code, self.headers = code, headers


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: StandIn

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        url = urlsplit(self.path)
        path, said = unquote(url.path), self.headers.get("Range", "")
        first = int(said.removeprefix("bytes=").rstrip("-")) if said else None
        self.hub.note(Asked(self.command, path, first, self.headers.get("Authorization")))
        try:
            for name, code in self.hub.status.items():
                if path.endswith(name):
                    raise _Refused(code)
            if path.startswith("/api/"):
                self.api(path.removeprefix("/api/"), parse_qs(url.query))
            else:
                self.file(path.lstrip("/"), first)
        except _Refused as refused:
            names = {name.replace("_", "-"): value for name, value in refused.headers.items()}
            self.reply(refused.code, b'{"error": "refused"}', names)

    def repository(self, kind: str, id: str) -> Repository:
        for each in self.hub.repositories:
            if (each.kind, each.id) == (kind, id):
                if each.token and self.headers.get("Authorization") != f"Bearer {each.token}":
                    raise _Refused(403 if each.gated else 401, X_Error_Code="GatedRepo" if each.gated else "")
                return each
        raise _Refused(404, X_Error_Code="RepoNotFound")

    def api(self, path: str, query: dict[str, list[str]]) -> None:
        kind, _, rest = path.partition("s/")
        for word in ("/revision/", "/tree/"):
            id, found, revision = rest.partition(word)
            if found:
                break
        repository = self.repository(kind, id)
        commit = repository.revisions.get(revision, revision)
        if commit not in repository.commits:
            raise _Refused(404, X_Error_Code="RevisionNotFound")
        files = repository.commits[commit]
        if word == "/revision/":
            body: object = {"id": id, "sha": commit, "siblings": [{"rfilename": name} for name in files]}
        else:
            assert query["recursive"] == ["true"]
            folders = {str(each) for name in files for each in PurePosixPath(name).parents if each.name}
            body = [
                *({"type": "directory", "path": name, "oid": "0" * 40, "size": 0} for name in folders),
                *(self.entry(name, content) for name, content in files.items()),
            ]
        self.reply(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def entry(self, name: str, content: bytes) -> dict[str, object]:
        entry: dict[str, object] = {
            "type": "file",
            "path": name,
            "size": len(content),
            "oid": git_hash(content),
        }
        if name.endswith(LARGE):
            entry["lfs"] = {"oid": etag(name, content), "size": len(content), "pointerSize": 130}
        return entry

    def file(self, path: str, first: int | None) -> None:
        under, _, rest = path.partition("/resolve/")
        revision, _, name = rest.partition("/")
        kind = "dataset" if under.startswith("datasets/") else "model"
        repository = self.repository(kind, under.removeprefix("datasets/"))
        files = repository.commits.get(repository.revisions.get(revision, revision), {})
        if name not in files:
            raise _Refused(404, X_Error_Code="EntryNotFound")
        content = files[name]
        headers = {"ETag": f'"{etag(name, content)}"', "X-Repo-Commit": revision, "Accept-Ranges": "bytes"}
        if any(name.endswith(each) for each in self.hub.spoilt):
            content = bytes(reversed(content))
        if first is None or self.hub.rangeless:
            self.reply(200, content, headers)
        else:
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
            self.reply(206, content[first:], headers)

    def reply(self, code: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in headers.items():
            if value:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        for name in [each for each in self.hub.stall if self.path.endswith(each)]:
            self.wfile.write(body[: self.hub.stall[name]])
            self.hub.stalled.set()
            self.hub.go_on.wait(60)
            self.close_connection = True
            return
        cut = self.hub.next_cut(self.path)
        body = body if cut is None else body[:cut]
        self.hub.sent += len(body)
        self.wfile.write(body)
        if cut is not None:
            self.close_connection = True


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[StandIn]:
    """One that huggingface_hub of this process asks; no token is known."""
    from huggingface_hub import constants

    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    made = StandIn()
    with serving(made) as address:
        monkeypatch.setattr(constants, "ENDPOINT", address)
        template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        # It hands on nothing less than this, else 10 MB; what is short of it is lost with a connection.
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 100_000)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
        yield made
