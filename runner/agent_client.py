"""A small client of the OpenHands agent-server: as much of its API as tells that a sandbox works.

The one HTTP door beside the registry's. The server is reached at an address of this machine, so no proxy is
asked. The session key goes into a header and is never shown.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import httpx
from msgspec import Struct

from kit.errors import VerifyError

PAUSE = 0.1  # seconds between two looks at a command's output, as the SDK has it
MOST = 64 << 20  # bytes of an answer
LONGEST = 300  # characters of an answer that an error quotes


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
        )  # fmt: skip

    def __enter__(self) -> Agent:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def alive(self) -> bool:
        """Whether it says so now. An address where nobody listens, or no longer, is no."""
        try:
            with self._http.stream("GET", "/alive", timeout=5.0) as answer:  # its body may have no end
                return answer.status_code == 200
        except httpx.RequestError:
            return False

    def idle(self) -> float | None:
        """Seconds since it last did something; None where it does not say, as one of another make."""
        said = self._json("GET", "/server_info").get("idle_time")
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
