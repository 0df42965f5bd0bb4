"""The code server: open-instruct's two questions over HTTP, by the standard library alone.

    GET  /health              {"status": "healthy", "isolation": …, "missing": […]}, without a key
    POST /test_program        {program, tests, max_execution_time} -> {results, runtimes}
    POST /test_program_stdio  the same, each test {input, output}

A program that fails or hangs gets zeros, and so does a hostile one by /test_program_stdio: what is expected
stays outside of its reach. Not so by /test_program, whose tests run in the program's own process: one that
looks for it finds how a pass is told, and can tell it of any test. RL may learn that; /health says it.
What is wrong with a request, with the key or with this server is an HTTP status, never a zero:
a reward would be made of it.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import traceback
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from msgspec import json, structs

from kit import say
from kit.errors import LaunchError
from runner.code_server import keys, requests
from runner.code_server.grading import Fault, Grader
from runner.code_server.requests import Refused
from runner.code_server.wanted import PORT

LARGEST = 256 << 20  # bytes of a body
QUEUE = 1024  # requests that may wait; what comes then is told to come again
SILENCE = 60.0  # seconds for a caller to send what it began
QUESTIONS = {"/test_program": False, "/test_program_stdio": True}


class Server(ThreadingHTTPServer):
    """Listens from its making on; `workers` requests at once, the others wait."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, grader: Grader, key: str | None, workers: int) -> None:
        wanted, port = grader.wanted, grader.wanted.port or PORT
        if ":" in wanted.listen:
            self.address_family = socket.AF_INET6
        try:
            super().__init__((wanted.listen, port), _Handler)
        except OSError as taken:
            raise LaunchError(
                f"the code server cannot listen on {wanted.listen} port {port}: {taken.strerror}",
                f"ss -ltnp 'sport = :{port}'; runner submit JOB.YAML code_server.port=OTHER",
            ) from taken
        self.grader, self.key = grader, key
        self._at_work = threading.BoundedSemaphore(workers)
        self._places = threading.BoundedSemaphore(workers + QUEUE)

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Until it is this request's turn; Refused where too many wait."""
        if not self._places.acquire(blocking=False):
            raise Refused(503, f"{QUEUE} requests wait: come again")
        try:
            with self._at_work:
                yield
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A caller that hung up is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "slipworks", ""
    timeout = SILENCE
    wbufsize = 1 << 16  # head and body leave as one: in two the second would wait for a word on the first

    def do_GET(self) -> None:
        if self.path != "/health":
            return self._refuse(Refused(405 if self.path in QUESTIONS else 404, "GET /health"))
        grader = self.server.grader
        self._answer(200, {"status": "healthy", "isolation": grader.way, "missing": grader.missing()})

    def do_POST(self) -> None:
        try:
            raw = self._body()
            request = requests.read(raw, QUESTIONS[self.path])
            wanted = self.server.grader.wanted
            seconds = min(max(request.seconds, wanted.at_least), wanted.at_most)
            with self.server.turn():
                answer = self.server.grader.grade(structs.replace(request, seconds=seconds))
            self._answer(200, {"results": answer.results, "runtimes": answer.runtimes})
        except Refused as refused:
            self._refuse(refused)
        except Fault as fault:
            say.say(f"error: could not run a program: {fault}")
            self._refuse(Refused(500, f"the code server failed: {fault}"))
        except (OSError, TimeoutError):
            self.close_connection = True
        except Exception as unforeseen:
            say.say(traceback.format_exc())
            self._refuse(Refused(500, f"the code server failed: {type(unforeseen).__name__}"))

    def _body(self) -> bytes:
        """What was sent; whoever has no key, or asks for what there is not, need not send it."""
        if self.path not in QUESTIONS:
            raise Refused(404, f"there is {', '.join(QUESTIONS)} and /health")
        key = self.server.key
        if key and not keys.opens(key, self.headers[keys.HEADER], self.headers["Authorization"]):
            raise Refused(401, f"no key, or a wrong one: {keys.HEADER}: KEY, or Authorization: Bearer KEY")
        length = self.headers["Content-Length"] or ""
        if not length.isdecimal():
            raise Refused(411, "Content-Length is missing")
        if int(length) > LARGEST:
            raise Refused(413, f"more than {LARGEST >> 20} MB")
        raw = self.rfile.read(int(length))
        if len(raw) < int(length):
            raise TimeoutError
        return raw

    def _refuse(self, refused: Refused) -> None:
        self.close_connection = True  # the body may not have been read
        self._answer(refused.status, {"detail": refused.why})

    def _answer(self, status: int, data: dict[str, Any]) -> None:
        body = json.encode(data)
        with contextlib.suppress(OSError):
            self.send_response(status)
            if status == 401:
                self.send_header("WWW-Authenticate", 'Bearer realm="code server"')
            if status == 503:
                self.send_header("Retry-After", "5")
            if self.close_connection:
                self.send_header("Connection", "close")
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Hundreds of thousands of requests are no news either."""
