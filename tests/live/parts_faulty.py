"""A proxy before a real registry that fails for a share of the requests, in every way that networks do."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

KINDS = ("401", "429", "500", "reset", "lost", "stall", "truncate")
TOKEN = "/a-token-service"
"""401: wants a token of a service that is here too, and fails as often. reset: before the registry hears of
it; lost: the registry did it, and its answer does not come; truncate: the answer, or the upload, ends in the
middle."""


class FaultyProxy:
    """`host` is to be used in place of the registry's own. stall: seconds of silence, after which the
    connection ends. Which request fails, and how, is drawn from `seed`; `faults` counts what was done.
    address: of this machine's, where it is not for this machine alone."""

    def __init__(
        self, registry: str, share: float = 0.3, seed: int = 1, stall: float = 2.0, address: str = ""
    ) -> None:
        self.registry, self.share, self.stall = registry, share, stall
        self.faults: Counter[str] = Counter()
        self.requests = 0
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                proxy.answer(self, body)

            do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any

            def log_message(self, *args: object) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            request_queue_size = 128
            daemon_threads = True

            def handle_error(self, request: object, client_address: object) -> None:
                pass  # connections break here by intention

        self.server = Server((address or "127.0.0.1", 0), Handler)
        self.host = f"{address or 'localhost'}:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def _drawn(self) -> tuple[str, float]:
        with self._lock:
            self.requests += 1
            kind = self._random.choice(KINDS) if self._random.random() < self.share else ""
            self.faults[kind] += bool(kind)
            return kind, self._random.random()

    def answer(self, handler: http.server.BaseHTTPRequestHandler, body: bytes) -> None:
        kind, where = self._drawn()
        if kind in ("401", "429", "500"):
            self._refuse(handler, kind, where)
        elif kind == "reset":
            _break(handler)
        elif kind == "stall" and where < 0.5:
            time.sleep(self.stall)
            _break(handler)
        elif kind == "truncate" and body:
            self._forwarded(handler, body, body[: int(len(body) * where)])
            _break(handler)
        else:
            answered = self._forwarded(handler, body, body)
            if kind == "stall":
                time.sleep(self.stall)
            if answered is None or kind in ("lost", "stall"):
                _break(handler)
            else:
                _send(handler, *answered, cut=where if kind == "truncate" else None)

    def _refuse(self, handler: http.server.BaseHTTPRequestHandler, kind: str, where: float) -> None:
        code = int(kind) if kind != "500" else (500, 502, 503, 504)[int(where * 4)]
        words = b"<html>sorry</html>"
        headers = [("Content-Length", str(len(words)))]
        if code == 401 and not handler.path.startswith(TOKEN):
            realm = f'Bearer realm="http://{self.host}{TOKEN}",service="faulty"'
            headers.append(("WWW-Authenticate", realm))
        if code == 429 and where < 0.2:
            soon = format_datetime(datetime.now(UTC) + timedelta(seconds=1), usegmt=True)
            headers.append(("Retry-After", "1" if where < 0.02 else soon if where < 0.1 else "0"))
        _send(handler, code, headers, words)

    def _forwarded(
        self, handler: http.server.BaseHTTPRequestHandler, body: bytes, sent: bytes
    ) -> tuple[int, list[tuple[str, str]], bytes] | None:
        """What the registry answers; None when it got but a part of what was announced."""
        if handler.path.startswith(TOKEN):
            given = b'{"token": "%d"}' % self.requests
            return 200, [("Content-Length", str(len(given)))], given
        upstream = http.client.HTTPConnection(self.registry, timeout=30)
        with contextlib.closing(upstream):
            upstream.putrequest(handler.command, handler.path, skip_host=True, skip_accept_encoding=True)
            for name, value in handler.headers.items():
                if name.lower() != "connection":
                    upstream.putheader(name, value)
            upstream.endheaders(sent or None)
            if len(sent) < len(body):
                return None
            answer = upstream.getresponse()
            return answer.status, answer.getheaders(), answer.read()


class Damaging(FaultyProxy):
    """An image's layer comes with a wrong byte as often as `times` says by the image's name; `layers` are
    those that are no other image's. most: how many of them came at once; four are waited for."""

    def __init__(self, registry: str, times: dict[str, int], layers: set[str], address: str = "") -> None:
        self.times, self.layers = times, layers
        self.damaged: Counter[str] = Counter()
        self.at_once = self.most = 0
        self._counting = threading.Lock()
        super().__init__(registry, share=0.0, address=address)

    def _forwarded(self, handler: Any, body: bytes, sent: bytes) -> Any:
        image = handler.path.split("/")[2]
        layer = handler.path.rpartition("/")[2] in self.layers and handler.command == "GET"
        with self._counting:
            self.at_once += layer
            self.most = max(self.most, self.at_once)
        answer = super()._forwarded(handler, body, sent)
        if layer:
            deadline = time.monotonic() + 3
            while self.at_once < 4 and self.most < 4 and time.monotonic() < deadline:
                time.sleep(0.01)  # the others that are pulled now ask soon, too
            with self._counting:
                self.at_once -= 1
                if self.damaged[image] < self.times.get(image, 0):
                    self.damaged[image] += 1
                    code, headers, raw = answer
                    return code, headers, raw[:-9] + bytes([raw[-9] ^ 1]) + raw[-8:]
        return answer


def _send(
    handler: http.server.BaseHTTPRequestHandler, code: int, headers: list[tuple[str, str]], body: bytes,
    cut: float | None = None,
) -> None:  # fmt: skip
    """With `cut` only that part of the answer goes out."""
    lines = [f"HTTP/1.1 {code} X", *(f"{name}: {value}" for name, value in headers)]
    raw = "\r\n".join([*lines, "", ""]).encode() + (b"" if handler.command == "HEAD" else body)
    handler.wfile.write(raw if cut is None else raw[: int(len(raw) * cut)])
    if cut is not None:
        handler.wfile.flush()
        handler.connection.shutdown(socket.SHUT_RDWR)
        handler.close_connection = True


def _break(handler: http.server.BaseHTTPRequestHandler) -> None:
    """Ends the connection by RST, as a crashed balancer does."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()
    handler.close_connection = True


@contextlib.contextmanager
def faulty(registry: str, share: float = 0.3, seed: int = 1, stall: float = 2.0) -> Iterator[FaultyProxy]:
    proxy = FaultyProxy(registry, share, seed, stall)
    try:
        yield proxy
    finally:
        proxy.close()
