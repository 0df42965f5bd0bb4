"""Real registries on loopback, and a server that fails on demand as no real one will."""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import secrets
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.live.needs import need
from tests.live.parts_slurm_net import LIVES

USER, PASSWORD = "tester", "not-a-secret"
HTPASSWD = "tester:$2b$05$abcdefghijklmnopqrstuuVPNOToLP9MHdthRCXkVoiIF0qNKnk2G\n"
DEADLINE = 30.0


@pytest.fixture(scope="session")
def registry_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`localhost:<port>` of Docker's own registry, open to all."""
    yield from _serving(tmp_path_factory.mktemp("registry"), "")


@pytest.fixture(scope="session")
def locked_registry_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The same with USER and PASSWORD needed (HTTP basic)."""
    folder = tmp_path_factory.mktemp("locked registry")
    (folder / "htpasswd").write_text(HTPASSWD)
    auth = {"htpasswd": {"realm": "test", "path": str(folder / "htpasswd")}}
    yield from _serving(folder, f"auth: {json.dumps(auth)}\n")


class Tokens:
    """A token service that a real registry trusts: it signs what USER asks for, and notes it down."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.granted = folder, list[list[str]]()
        key, certificate = folder / "key.pem", folder / "certificate.pem"
        subject = ["-subj", "/CN=tokens", "-days", "2", "-nodes"]
        making = [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-keyout",
            key,
            "-out",
            certificate,
            *subject,
        ]
        subprocess.run(making, check=True, capture_output=True)
        self.key, self.certificate = key, certificate
        tokens = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                right = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
                if self.headers.get("Authorization") != f"Basic {right}":
                    self.send_error(401)
                    return
                query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
                tokens.granted.append(query["scope"])
                body = json.dumps({"token": tokens.signed(query["scope"])}).encode()
                self.send_response(200)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def signed(self, scopes: list[str]) -> str:
        der = "".join(self.certificate.read_text().splitlines()[1:-1])
        access = [dict(zip(("type", "name", "actions"), scope.split(":"), strict=True)) for scope in scopes]
        now = int(time.time())
        claims = {
            "iss": "tests", "sub": USER, "aud": "registry", "jti": secrets.token_hex(8),
            "iat": now, "nbf": now - 10, "exp": now + 300,
            "access": [{**one, "actions": one["actions"].split(",")} for one in access],
        }  # fmt: skip
        header = {"typ": "JWT", "alg": "RS256", "x5c": [der]}
        text = ".".join(_url64(json.dumps(part).encode()) for part in (header, claims))
        signing = ["openssl", "dgst", "-sha256", "-sign", str(self.key)]
        done = subprocess.run(signing, input=text.encode(), check=True, capture_output=True)
        return f"{text}.{_url64(done.stdout)}"


def _url64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


@pytest.fixture(scope="session")
def token_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Tokens]]:
    """A registry that sends its clients to a token service, as Docker Hub and most others do."""
    need(shutil.which("openssl"), "openssl is not installed (apt-get install openssl)")
    folder = tmp_path_factory.mktemp("token registry")
    tokens = Tokens(folder)
    realm = f"http://localhost:{tokens.server.server_port}/token"
    certificate = str(tokens.certificate)
    auth = {
        "token": {"realm": realm, "service": "registry", "issuer": "tests", "rootcertbundle": certificate}
    }
    for host in _serving(folder, f"auth: {json.dumps(auth)}\n"):
        yield host, tokens
    tokens.server.shutdown()


def _serving(folder: Path, more: str) -> Iterator[str]:
    need(
        shutil.which("docker-registry"), "docker-registry is not installed (apt-get install docker-registry)"
    )
    process, host = _started(folder, more)
    try:
        yield host
    finally:
        process.terminate()
        process.wait(DEADLINE)


@contextlib.contextmanager
def registry(folder: Path, more: str = "") -> Iterator[str]:
    """Another one of its own, with its data in a new folder."""
    folder.mkdir(parents=True)
    yield from _serving(folder, more)


def _started(folder: Path, more: str) -> tuple[subprocess.Popen[bytes], str]:
    """A port that was free a moment ago may be taken when the registry binds it: then another is tried."""
    for _ in range(5):
        host = f"localhost:{free_port()}"
        (folder / "config.yml").write_text(
            "version: 0.1\n"
            f"storage: {json.dumps({'filesystem': {'rootdirectory': str(folder / 'data')}})}\n"
            f"http: {{addr: '127.0.0.1:{host.rpartition(':')[2]}', secret: for-tests}}\n" + more
        )
        with (folder / "log").open("ab") as log:
            process = subprocess.Popen(
                [*LIVES, "docker-registry", "serve", str(folder / "config.yml")], stdout=log, stderr=log
            )
        if _answers(process, f"http://{host}/v2/"):
            return process, host
    pytest.fail(f"docker-registry does not start:\n{(folder / 'log').read_text()[-2000:]}")


def _answers(process: subprocess.Popen[bytes], url: str) -> bool:
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return True
        except urllib.error.HTTPError:
            return True  # 401 is an answer too
        except OSError:
            threading.Event().wait(0.05)  # nothing tells when another process listens
    return False


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


Answer = Callable[[http.server.BaseHTTPRequestHandler], None]


class Faulty:
    """A server whose answers are given one by one: for what a real registry does not do when asked to."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        faulty = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                faulty.seen.append((self.command, self.path, dict(self.headers)))
                faulty.answers.pop(0)(self)

            do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer

            def log_message(self, *args: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"localhost:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def then(self, code: int, body: bytes = b"", cut: int | None = None, **headers: str) -> None:
        """The next answer; with `cut` the connection ends after so many bytes of the body."""

        def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
            handler.send_response(code)
            for name, value in headers.items():
                handler.send_header(name.replace("_", "-"), value)
            handler.send_header("Content-Length", str(len(body)))
            handler.end_headers()
            if handler.command != "HEAD":
                handler.wfile.write(body[:cut])
            if cut is not None:
                handler.wfile.flush()
                handler.connection.shutdown(socket.SHUT_RDWR)
                handler.close_connection = True

        self.answers.append(answer)

    def then_silence(self, until: threading.Event) -> None:
        """The next request gets no answer until the event."""
        self.answers.append(lambda handler: until.wait(DEADLINE) and None)


@pytest.fixture
def faulty() -> Iterator[Faulty]:
    server = Faulty()
    yield server
    server.server.shutdown()
    server.server.server_close()
