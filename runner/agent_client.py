"""A small client of the OpenHands agent-server: as much of its API as tells that a sandbox works.

The one HTTP door beside the registry's. The server is reached at an address of this machine, so no proxy is
asked. The session key goes into a header and is never shown.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
from msgspec import Struct

from kit.errors import VerifyError

PAUSE = 0.1  # seconds between two looks at a command's output, as the SDK has it
MOST = 64 << 20  # bytes of an answer
LONGEST = 300  # characters of an answer that an error quotes
QUICK = 5.0  # seconds for what a server tells of itself at once, whatever it does


class Ran(Struct, frozen=True):
    """What a command left."""

    code: int
    out: str
    err: str


class Agent:
    """One agent-server. VerifyError where it answers otherwise than it must, or not at all."""

    def __init__(self, url: str, key: str, timeout: float = 30.0) -> None:
        self.url, self.timeout = url, timeout
        self._http = httpx.Client(
            base_url=url, headers={"X-Session-API-Key": key}, timeout=timeout, trust_env=False,
            verify=url.startswith("https:"),  # else certificates are read for nothing: 20 ms and more
            limits=httpx.Limits(max_keepalive_connections=0),  # each has its own, which can be cut: _Cut
        )  # fmt: skip

    def __enter__(self) -> Agent:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def alive(self) -> bool:
        """Whether it says so now. An address where nobody listens, or no longer, is no."""
        try:
            with (
                _Cut(QUICK) as cut,
                self._http.stream("GET", "/alive", timeout=QUICK, extensions={"trace": cut.trace}) as answer,
            ):  # its body may have no end
                return answer.status_code == 200
        except httpx.RequestError:
            return False

    def idle(self) -> float | None:
        """Seconds since it last did something; None where it does not say, as one of another make."""
        with _Cut(QUICK) as cut:
            info = self._json("GET", "/server_info", timeout=QUICK, extensions={"trace": cut.trace})
        said = info.get("idle_time")
        return float(said) if isinstance(said, (int, float)) and said >= 0 else None

    def command(self, command: str, cwd: str | None = None) -> Ran:
        """Runs a line of sh to its end, within the client's time."""
        asked = {"command": command, "timeout": int(self.timeout)} | ({"cwd": cwd} if cwd else {})
        number = str(self._json("POST", "/api/bash/start_bash_command", json=asked)["id"])
        out, err, last = "", "", -1
        end = time.monotonic() + self.timeout
        while time.monotonic() < end:
            query = {"command_id__eq": number, "sort_order": "TIMESTAMP", "limit": 100, "order__gt": last,
                     "kind__eq": "BashOutput"}  # fmt: skip
            for event in self._json("GET", "/api/bash/bash_events/search", params=query)["items"]:
                out, err = out + (event.get("stdout") or ""), err + (event.get("stderr") or "")
                last = max(last, event.get("order") or 0)
                if event.get("exit_code") is not None:
                    return Ran(event["exit_code"], out, err)
            time.sleep(PAUSE)
        raise VerifyError(f"the agent-server did not end {command!r} in {self.timeout:g} s")

    def upload(self, path: str, raw: bytes) -> None:
        """Puts a file into the sandbox; folders above it are made."""
        with self._asked("POST", "/api/file/upload", params={"path": path}, files={"file": ("file", raw)}):
            pass

    def download(self, path: str, most: int = MOST) -> bytes:
        """The bytes of a file of the sandbox; VerifyError where they are more than `most`."""
        with self._asked("GET", "/api/file/download", most, params={"path": path}) as answer:
            return answer.content

    def _json(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        with self._asked(method, path, **more) as answer:
            try:
                found = answer.json()
            except ValueError as bad:
                raise VerifyError(f"the agent-server answers {method} {path} with no JSON") from bad
        if not isinstance(found, dict):
            raise VerifyError(f"the agent-server answers {method} {path} with {str(found)[:LONGEST]}")
        return found

    @contextlib.contextmanager
    def _asked(self, method: str, path: str, most: int = MOST, **more: Any) -> Iterator[httpx.Response]:
        try:
            answer = self._whole(method, path, most, **more)
        except httpx.RequestError as broken:
            told = str(broken) or type(broken).__name__
            raise VerifyError(f"the agent-server at {self.url} does not answer: {told}") from broken
        if answer.status_code >= 400:
            said = answer.text[:LONGEST].strip()
            raise VerifyError(f"the agent-server answers {method} {path} with {answer.status_code}: {said}")
        yield answer

    def _whole(self, method: str, path: str, most: int, **more: Any) -> httpx.Response:
        """A sandbox runs what others wrote: no answer of it may fill our memory."""
        with self._http.stream(method, path, **more) as answer:
            found = bytearray()
            for piece in answer.iter_bytes():
                found += piece
                if len(found) > most:
                    raise VerifyError(f"the agent-server answers {method} {path} with more than {most} bytes")
        return httpx.Response(answer.status_code, content=bytes(found))


class _Cut:
    """Ends a request `seconds` after it has a connection, by taking that away: httpx counts the time of each
    read anew, so a sandbox that sends a byte now and then would hold whoever asks it, without end."""

    def __init__(self, seconds: float) -> None:
        self._timer = threading.Timer(seconds, self._cut)
        self._timer.daemon = True
        self._socket: socket.socket | None = None

    def __enter__(self) -> _Cut:
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def trace(self, event: str, told: Mapping[str, Any]) -> None:
        """What httpx tells of a request; where nobody listens no thread is begun."""
        if event == "connection.connect_tcp.complete":
            self._socket = told["return_value"].get_extra_info("socket")
            self._timer.start()
        elif event == "connection.start_tls.complete":
            self._socket = told["return_value"].get_extra_info("socket")

    def _cut(self) -> None:
        with contextlib.suppress(OSError):  # it ended in this moment
            if self._socket:
                self._socket.shutdown(socket.SHUT_RDWR)
