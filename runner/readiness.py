"""Whether a service is ready, by one of four forms: `port:N`, `http://…`, `file:/…` and `run:COMMAND`."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from kit import process

FORM = re.compile(r"port:([1-9]\d{0,4})|(https?://\S+)|file:(/.*)|run:(.*\S.*)", re.DOTALL)
ANSWER = 2.0  # seconds for one question
COMMAND = 30.0  # seconds for a command to say so
PAUSE = 0.5  # seconds between two commands


def form(ready: str) -> re.Match[str] | None:
    """The form, if it is one."""
    return FORM.fullmatch(ready)


def taken(ready: str | None) -> int | None:
    """The port of this machine on which it is to be ready, if something listens there; None: nothing does."""
    found = form(ready or "")
    port, url = found.groups()[:2] if found else (None, None)
    if url:
        with contextlib.suppress(ValueError):
            parts = urlsplit(url)
            port = str(parts.port or "") if parts.hostname in ("127.0.0.1", "localhost") else None
    return int(port) if port and _listens("127.0.0.1", int(port)) else None


class Readiness:
    """Asked again and again, of one service. address: the node's, beside 127.0.0.1; env, cwd: a command's."""

    def __init__(self, ready: str, address: str, env: Mapping[str, str], cwd: str | None) -> None:
        found = form(ready)
        assert found, "checked before anything was started"
        self.port, self.url, self.path, self.command = found.groups()
        self.address, self.env, self.cwd = address, env, cwd
        self._child: process.Child[bytes] | None = None
        self._next = self._until = 0.0

    def is_there(self) -> bool:
        if self.port:
            hosts = dict.fromkeys(("127.0.0.1", self.address))
            return any(_listens(host, int(self.port)) for host in hosts)
        if self.url:
            return answers(self.url)
        return Path(self.path).exists() if self.path else self._says_so()

    def end(self) -> None:
        """Ends a command that still runs."""
        if self._child and self._child.poll() is None:
            process.end_group(self._child, 1.0)

    def _says_so(self) -> bool:
        """Whether the command has ended well. It is not waited for here: the node has more to look at."""
        now = time.monotonic()
        if self._child is None:
            if now >= self._next:
                words = ["/bin/sh", "-euc", self.command]
                self._child = process.start(words, what="ask whether a service is ready", env=self.env,
                                            log=Path(os.devnull), cwd=self.cwd)  # fmt: skip
                self._until = now + COMMAND
            return False
        code = self._child.poll()
        if code is None and now < self._until:
            return False
        self.end()
        self._child, self._next = None, now + PAUSE
        return code == 0


def _listens(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=ANSWER):
            return True
    except OSError:
        return False


def answers(url: str) -> bool:
    """Whether it answers 2xx. The service is near: no proxy is asked."""
    from http.client import HTTPException
    from urllib.request import ProxyHandler, build_opener

    try:
        with build_opener(ProxyHandler({})).open(url, timeout=ANSWER) as answer:
            return bool(200 <= answer.status < 300)
    except (OSError, ValueError, HTTPException):
        return False
