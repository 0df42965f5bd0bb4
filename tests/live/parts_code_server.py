"""The code server as a process, for tests."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from msgspec import Struct, json

from kit import process
from tests.live.parts_engines import User
from tests.live.parts_jobs import MAIN, PACKAGES, interpreter
from tests.live.parts_slurm_daemons import until

KEY = "the-key-0123456789"
PYTHON = "/usr/bin/python3"  # one that every user of this machine can run
SMALL = {"memory": 384, "disk": 16, "processes": 12, "at_most": 15.0, "workers": 4, "python": PYTHON}
BECOME = """import os, sys
user, group = map(int, sys.argv[1:3])
os.setgroups([])
os.setgid(group)
os.setuid(user)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Server(Struct):
    """One that runs, and how it is asked."""

    port: int
    way: str
    user: User | None
    home: Path
    child: process.Child[bytes]

    def ask(
        self, path: str, program: str = "", tests: list[Any] | str = "", seconds: float = 3.0, **headers: str
    ) -> tuple[int, dict[str, Any]]:
        body = json.encode({"program": program, "tests": tests, "max_execution_time": seconds})
        sent = {"X-API-Key": KEY, **{name.replace("_", "-"): value for name, value in headers.items()}}
        request = Request(f"http://127.0.0.1:{self.port}{path}", body if program else None, sent)
        try:
            with urlopen(request, timeout=60) as answer:
                return answer.status, json.decode(answer.read())
        except HTTPError as refused:
            return refused.code, json.decode(refused.read())

    def passes(self, program: str, test: str = "assert True", seconds: float = 3.0) -> int:
        """1 or 0. A test that asserts nothing leaves it to the program, which must end well."""
        status, answer = self.ask("/test_program", program, [test], seconds)
        assert status == 200, answer
        (result,) = answer["results"]
        assert isinstance(result, int)
        return result

    def wrote(self, program: str, expected: str) -> int:
        status, answer = self.ask("/test_program_stdio", program, [{"input": "", "output": expected}])
        assert status == 200, answer
        (result,) = answer["results"]
        assert isinstance(result, int)
        return result

    def wait(self) -> None:
        """Until it answers."""
        deadline = time.monotonic() + 60
        while True:
            assert self.child.poll() is None and time.monotonic() < deadline, (self.home / "log").read_text()
            try:
                assert self.ask("/health")[1]["isolation"] == self.way
                return
            except OSError:
                time.sleep(0.05)

    def unharmed(self) -> None:
        """It is the same process, answers at once and rightly, and of what ran nothing is left."""
        assert self.child.poll() is None
        assert self.ask("/health")[1]["status"] == "healthy"
        assert self.passes("def add(a, b): return a + b", "assert add(1, 2) == 3", 10.0) == 1
        until(lambda: not left(), "the end of what programs left", 10, lambda: str(left()))


def left() -> list[str]:
    """What a program here may have left: forks of the judge, what they became, its folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if b"def be_tested(" in line or b"7654.321" in line:
                found.append(line[-200:].decode(errors="replace"))
    return [*found, *map(str, Path("/tmp").glob("sw-code-*"))]


@contextlib.contextmanager
def serving(
    way: str, user: User | None, home: Path, isolation: str = "", within: tuple[str, ...] = ()
) -> Iterator[Server]:
    """One of `user`'s, or of this process's own user, until the end of `with`; `home` becomes its home.

    way: what it is to find; isolation: what it is told, if not just that; within: words before its own.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    words = json.encode({**SMALL, "isolation": isolation or way}).decode()
    argv = ["-c", MAIN, "code-server", "--port", str(port), "--set", words, "--key-file", str(home / "key")]
    argv = [interpreter(user) if user else sys.executable, *argv]
    (home / "key").write_text(KEY)
    (home / "key").chmod(0o600)
    if user:
        for mine in (home, home / "key"):
            shutil.chown(mine, user.name)
        place = home.stat()
        argv = [sys.executable, "-c", BECOME, str(place.st_uid), str(place.st_gid), *argv]
    argv = [*within, *argv]
    packages = os.pathsep.join(map(str, PACKAGES))
    env = {"PATH": "/usr/bin:/bin", "HOME": str(home), "A_SECRET": KEY, "PYTHONPATH": packages}
    child = process.start(argv, what="serve", log=home / "log", env=env, cwd="/")
    made = Server(port, way, user, home, child)
    try:
        made.wait()
        yield made
    finally:
        process.end_group(child)
