"""Downloads by hash, from a real server on loopback, and a published wheel that comes from one."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from image_cache import downloads
from kit.errors import AuthError, HashMismatchError, NetworkError, NotFoundError, UnsupportedError
from runner import wheels
from tests.unit.parts_wheels import fat, host_tag, library, sha256, taken, wheel


class Served(http.server.BaseHTTPRequestHandler):
    """Gives `body` at /wheels/…; fails `failures` times first."""

    body = b""
    failures = 0
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        Served.asked.append(self.headers.get("Authorization", ""))
        code = 200 if self.path.startswith("/wheels/") else 401 if "secret" in self.path else 404
        if code == 200 and Served.failures:
            Served.failures -= 1
            code = 503
        self.send_response(code)
        self.send_header("Content-Length", str(len(self.body) if code == 200 else 0))
        self.end_headers()
        if code == 200:
            self.wfile.write(self.body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web() -> Iterator[str]:
    Served.asked, Served.failures, Served.body = [], 0, b"bytes of a wheel"
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Served)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_download_is_taken_by_its_hash(web: str, tmp_path: Path) -> None:
    good = hashlib.sha256(Served.body).hexdigest()
    Served.failures = 2
    downloads.fetch(f"{web}/wheels/x", tmp_path / "x", sha256=good, pause=0.01)
    assert (tmp_path / "x").read_bytes() == Served.body
    with pytest.raises(HashMismatchError, match=f"sha256 {good}: expected {'0' * 64}"):
        downloads.fetch(f"{web}/wheels/x", tmp_path / "y", sha256="0" * 64)
    assert [each.name for each in tmp_path.iterdir()] == ["x"]


def test_what_a_download_says_of_failures(web: str, tmp_path: Path) -> None:
    out = tmp_path / "x"
    with pytest.raises(NotFoundError):
        downloads.fetch(f"{web}/nothing", out, sha256="0" * 64)
    with pytest.raises(AuthError):
        downloads.fetch(f"{web}/secret", out, sha256="0" * 64)
    Served.failures = 99
    with pytest.raises(NetworkError, match="it answered 503"):
        downloads.fetch(f"{web}/wheels/x", out, sha256="0" * 64, pause=0.01)
    with pytest.raises(UnsupportedError, match="https://"):
        downloads.fetch("ftp://host/x", out, sha256="0" * 64)


def test_credentials_are_used_and_never_told(web: str, tmp_path: Path) -> None:
    url = web.replace("http://", "http://me:pass-word@")
    good = hashlib.sha256(Served.body).hexdigest()
    said: list[str] = []
    downloads.fetch(f"{url}/wheels/x?key=sig-nature", tmp_path / "x", sha256=good, update=said.append)
    assert Served.asked[0].startswith("Basic ")
    with pytest.raises(NotFoundError) as caught:
        downloads.fetch(f"{url}/nothing?key=sig-nature", tmp_path / "y", sha256=good)
    told = f"{caught.value.message} {caught.value.hint} {said}"
    assert "pass-word" not in told
    assert "sig-nature" not in told


def test_a_published_wheel_end_to_end(
    web: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLIPWORKS_CACHE", str(cache := tmp_path / "a cache"))
    path = wheel(tmp_path, tag=host_tag(), version="2.8.3+cu13", library=library(fat(90)))
    Served.body = path.read_bytes()
    url = f"{web}/wheels/{path.name.replace('+', '%2B')}"
    assert taken(url, sha256(path)) == 0
    (kept,) = wheels.house().list()
    assert (kept.wheel.file, kept.origin, kept.seconds) == (path.name, url, None)
    assert capsys.readouterr().out.strip() == str(cache / "wheels" / sha256(path) / path.name)
