"""From a request to its answer: one cage each, and what was found there."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from msgspec import DecodeError, Struct, ValidationError, json

from kit import process
from kit.errors import LaunchError, MissingToolError, SlipworksError
from runner.code_server import comparing, kernel, room
from runner.code_server.requests import Request
from runner.code_server.wanted import CodeServer

WAYS = ("namespaces", "landlock", "limits")
AGAIN = 8  # times that a request is tried where processes are short
PATIENCE = 60.0  # seconds beyond its own limits after which a cage counts as broken
OUTPUT = 64 << 20  # bytes that all tests of a request may write together
MORE = 64 << 10  # bytes of output beyond twice what is expected
SINGLE = {f"{each}_NUM_THREADS": "1" for each in ("OMP", "OPENBLAS", "MKL")}
ASK = "import sys, json; print(json.dumps([sys.executable, sys.prefix, sys.base_prefix, *sys.path]))"
FORGED = "by /test_program a program that means to can pass any test: /test_program_stdio keeps them outside"
START = "import sys; sys.path.insert(0, {!r}); from runner.code_server import cage; cage.main()"


class Fault(Exception):
    """The server's own failure, which says nothing of the program."""


class Crowded(Fault):
    """There were too many processes of the same user, as others' programs have them."""


class _Line(Struct):
    """One of the judge's: see judge.py."""

    begun: bool = False
    refused: str = ""
    crowded: bool = False
    passed: int = 0
    seconds: float = -1.0
    code: int = 1
    out: str = ""


class _Outcome(Struct):
    lines: list[str]
    why: str


class Answer(Struct, frozen=True):
    """Of each test 1 or 0, and the seconds that it took; -1: it did not come to its end."""

    results: list[int]
    runtimes: list[float]


class Grader:
    """Grades requests, from any number of threads. LaunchError where programs cannot be run here at all."""

    def __init__(self, wanted: CodeServer, env: Mapping[str, str], hide: list[str]) -> None:
        self.wanted, self.hide = wanted, hide
        kept = {name: env[name] for name in ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL") if name in env}
        self.env = {"LANG": "C.UTF-8", **kept, **SINGLE}
        self.python, self.see = self._found()
        self.judge = Path(__file__).with_name("judge.py").read_text()
        self.argv = [sys.executable, "-I", "-S", "-c", START.format(str(Path(__file__).parents[2]))]
        self.way, self.refusals = self._best()
        self.apart = self._apart()

    def grade(self, request: Request) -> Answer:
        """Fault if it could not be found out; a program that does wrong only fails."""
        if not request.tests:
            return Answer([], [])
        lines = self._told_at_last(request)
        lines += [_Line(code=-1)] * (len(request.tests) - len(lines))
        if request.outputs is None:
            passed = [line.passed == 1 for line in lines]
        else:
            passed = [
                line.code == 0 and comparing.same(line.out, wanted)
                for line, wanted in zip(lines, request.outputs, strict=True)
            ]
        times = [line.seconds if good else -1.0 for line, good in zip(lines, passed, strict=True)]
        return Answer([int(each) for each in passed], times)

    def _told_at_last(self, request: Request) -> list[_Line]:
        """What was told, if not at first: each try counts anew what this user runs."""
        for _ in range(AGAIN):
            with contextlib.suppress(Crowded):
                return self._told(request, self.way)
        return self._told(request, self.way)

    def missing(self) -> list[str]:
        """What the programs here are not kept from, in words."""
        found = [FORGED]
        version = kernel.landlock_version() if self.way == "landlock" else 0
        if self.way == "limits" and not self.apart:
            found.append("files of this user, the key's too, can be read")
        if self.way != "namespaces":
            found.append("the network is open" if version < 4 else "the network is closed to TCP alone")
        if self.way != "namespaces" and version < 6 and not self.apart:
            found.append("processes of this user can be signalled")
        return found

    def _found(self) -> tuple[str, list[str]]:
        """The interpreter, and what it and its programs read."""
        asked = self.wanted.python
        program = shutil.which(asked, path=self.env.get("PATH"))
        if program is None:
            raise MissingToolError(f"the image has no `{asked}` on its PATH to run programs with",
                                   "code_server.python=PROGRAM")  # fmt: skip
        words = [program, "-I", "-c", ASK]
        done = process.run(words, what=f"ask {asked} where it is", env=self.env, error=LaunchError)
        executable, *folders = json.decode(done.out, type=list[str])
        libraries = self.env.get("LD_LIBRARY_PATH", "").split(":")
        named = [executable, *folders, *libraries, *self.wanted.see]
        real = [os.path.realpath(each) for each in named if each]
        there = [each for each in (*named, *real) if each and each != "/" and Path(each).exists()]
        return executable, list(dict.fromkeys([*room.SYSTEM, *there]))

    def _best(self) -> tuple[str, dict[str, str]]:
        """The strictest way in which a cage can be made here, and why not those before it."""
        refused: dict[str, str] = {}
        asked = self.wanted.isolation
        for way in WAYS if asked == "best" else (asked,):
            try:
                (line,) = self._told(Request("one = 1", ("assert one == 1",), None, 10.0), way)
                if line.passed:
                    return way, refused
                refused[way] = "a program that is right failed there"
            except Fault as fault:
                refused[way] = str(fault)
        why = "; ".join(f"{way}: {reason}" for way, reason in refused.items())
        raise LaunchError(f"programs cannot be run as code_server.isolation={asked} says ({why})")

    def _apart(self) -> bool:
        """Whether programs are another user's than this server, which takes a root that can become one."""
        if self.way == "namespaces":
            return True
        asked = Request("import os", (f"assert os.getuid() != {os.geteuid()}",), None, 10.0)
        return all(line.passed for line in self._told(asked, self.way))

    def _told(self, request: Request, way: str) -> list[_Line]:
        """What the judge said of the tests, at most a line each."""
        plan = json.encode(self._plan(request, way))
        limit = request.seconds * len(request.tests) + PATIENCE
        try:
            done = process.run(
                self.argv, what="run the tests", env=self.env, stdin=plan, timeout=limit, check=False
            )
        except SlipworksError as broken:
            raise Fault(broken.message) from broken
        if done.code:
            said = done.err.strip().splitlines()
            raise Fault(said[-1] if said else f"the cage ended with exit code {done.code}")
        outcome = json.decode(done.out, type=_Outcome)
        lines = list(_read(outcome))
        if refused := next((line for line in lines if line.refused), None):
            raise (Crowded if refused.crowded else Fault)(refused.refused)
        if not lines or not lines[0].begun:
            raise Fault(f"{self.python} did not begin ({outcome.why})")
        return lines[1:]

    def _plan(self, request: Request, way: str) -> dict[str, Any]:
        wanted = self.wanted
        expected = max(map(len, request.outputs), default=0) if request.outputs is not None else 0
        return {
            "way": way, "see": self.see, "hide": self.hide, "python": self.python, "judge": self.judge,
            "env": self.env, "memory": wanted.memory << 20, "disk": wanted.disk << 20,
            "processes": wanted.processes, "total": request.seconds * len(request.tests), "output": OUTPUT,
            "request": {
                "kind": "asserts" if request.outputs is None else "stdio", "program": request.program,
                "tests": request.tests, "seconds": request.seconds, "most": 2 * expected + MORE,
            },
        }  # fmt: skip


def _read(outcome: _Outcome) -> Iterator[_Line]:
    """The lines; the last may be cut off where the judge was ended."""
    for line in outcome.lines:
        try:
            yield json.decode(line, type=_Line)
        except (DecodeError, ValidationError):
            if outcome.why == "ended":
                raise Fault("the judge's words could not be read") from None
            return
