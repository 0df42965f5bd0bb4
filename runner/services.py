"""Programs beside the command: started when Ray is ready, awaited, watched, and ended with the node."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from kit.errors import LaunchError
from runner.ends import Died
from runner.launch import Service
from runner.meeting import wait
from runner.program import Program, script
from runner.runs import Attempt, last_lines

FORM = re.compile(r"port:([1-9]\d{0,4})|(https?://\S+)|file:(/.*)")
ANSWER = 2.0  # seconds for one question whether a service is ready


class Services:
    """The services of one node; `launch.services` of every node's are given."""

    def __init__(self, services: tuple[Service, ...], attempt: Attempt, rank: int) -> None:
        self.here = [each for each in services if each.nodes == "all" or rank == 0]
        self.attempt, self.rank = attempt, rank
        self._running: list[tuple[Service, Program]] = []

    def start(self, env: Mapping[str, str], cwd: str | None) -> None:
        """Starts those that belong to this node."""
        for each in self.here:
            log = self.attempt.service_log(each.name, self.rank)
            what = f"start the service {each.name}"
            program = Program(script(each.run), what=what, log=log, env={**env, **each.env}, cwd=cwd)
            self._running.append((each, program))

    def wait_ready(self, address: str, check: Callable[[], None]) -> None:
        """Until all are ready; each has its own time, from now. `address`: this node's, beside 127.0.0.1."""
        began = time.monotonic()
        for each, _ in self._running:
            if each.ready is None:
                continue
            left = max(0.0, each.ready_within - (time.monotonic() - began))
            probe = partial(_is_ready, each.ready, address)
            try:
                wait(probe, awaited=f"the service {each.name}", seconds=left, check=check)
            except Died:
                raise
            except LaunchError as late:
                within = f"was not ready within {each.ready_within:g} s ({each.ready})"
                raise LaunchError(self._said(each, within)) from late

    def check(self) -> None:
        """Raises Died for one that has ended too early."""
        for each, program in self._running:
            code = program.code()
            if code is not None and (code or each.ready is not None):
                raise Died(self._said(each, f"ended with exit code {code} before the command did"))

    def _said(self, service: Service, how: str) -> str:
        log = self.attempt.service_log(service.name, self.rank)
        return f"the service {service.name} on node {self.rank} {how}; its last lines:\n{last_lines(log)}"


def check_form(service: Service) -> None:
    """LaunchError for a `ready` of none of the three forms."""
    if service.ready is not None and not FORM.fullmatch(service.ready):
        raise LaunchError(
            f"the service {service.name} has ready: {service.ready!r}, "
            "expected port:NUMBER, http://ADDRESS or file:/PATH"
        )


def _is_ready(ready: str, address: str) -> bool | None:
    form = FORM.fullmatch(ready)
    assert form, "checked before anything was started"
    port, url, path = form.groups()
    if port:
        done = any(_listens(host, int(port)) for host in dict.fromkeys(("127.0.0.1", address)))
    else:
        done = _answers(url) if url else Path(path).exists()
    return True if done else None


def _listens(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=ANSWER):
            return True
    except OSError:
        return False


def _answers(url: str) -> bool:
    """Whether it answers 2xx. The service is near: no proxy is asked."""
    from http.client import HTTPException
    from urllib.request import ProxyHandler, build_opener

    try:
        with build_opener(ProxyHandler({})).open(url, timeout=ANSWER) as answer:
            return bool(200 <= answer.status < 300)
    except (OSError, ValueError, HTTPException):
        return False
