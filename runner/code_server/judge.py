"""Tests one program: what the image's own Python runs inside the cage. Nothing of the kit is near it.

Any Python from 3.7 on, the standard library alone. On standard input comes the request as JSON; on standard
output go lines of JSON: `{"begun": true}`, then for each test in its order
    {"passed": 1, "seconds": 0.01}                   kind "asserts"
    {"code": 0, "seconds": 0.01, "out": "…"}         kind "stdio": who asked compares, expectations stay there
seconds is -1 where the test did not come to its end. Each test is a child of its own, with nothing of the one
before; the program never runs in this process. "asserts" are the program's to pass: they run in its process,
where the token and the pipe can be found. "stdio" has nothing there to be found.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import time
import types
from contextlib import suppress

MYPY = False  # typing is slow to load, and nothing here needs it
if MYPY:
    from typing import Any

STARS = (
    "string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random", "statistics",
    "itertools", "functools", "operator", "io", "sys", "json", "builtins", "typing",
)  # fmt: skip
"""What the graders of LiveCodeBench put before every program that reads and writes, so that those which
forgot an import run here as they do there; each also by its own name."""
DEEP = 50000  # the recursion limit of those graders


def main() -> None:
    be_closed()
    request = json.load(sys.stdin)
    results = os.fdopen(os.dup(1), "w")
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    names = starred() if request["kind"] == "stdio" else {}
    tell(results, {"begun": True})
    hopeless = False
    for test in request["tests"]:
        if hopeless:  # it did not even load within the time of a whole test
            tell(results, {"passed": 0, "code": 1, "seconds": -1.0, "out": ""})
            continue
        answer, hopeless = tested(request, test, names, results)
        tell(results, answer)


def be_closed() -> None:
    """No process of the same user looks into this one, or writes to what it has open."""
    with suppress(ImportError, OSError):
        import ctypes

        ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)


def tell(results: Any, line: dict[str, Any]) -> None:
    results.write(json.dumps(line) + "\n")
    results.flush()


def starred() -> dict[str, Any]:
    names: dict[str, Any] = {}
    for each in STARS:
        exec(f"from {each} import *\nimport {each}", names)
    names.pop("__builtins__")
    return names


def tested(
    request: dict[str, Any], test: str, names: dict[str, Any], results: Any
) -> tuple[dict[str, Any], bool]:
    """The answer of one test, and whether the program could not be loaded in time."""
    stdio = request["kind"] == "stdio"
    reading, writing = os.pipe()
    token = os.urandom(16)
    try:
        given, taken = (put(test), put("")) if stdio else (-1, -1)
        child = os.fork()
    except OSError as refused:  # no fault of this program: an input that is too large, a crowd of others
        crowded = refused.errno == errno.EAGAIN
        tell(results, {"refused": f"no test can be started: {refused}", "crowded": crowded})
        sys.exit(1)
    if child == 0:
        os.close(reading)
        os.close(results.fileno())
        if stdio:
            os.dup2(given, 0)
            os.dup2(taken, 1)
            os.close(given)
            os.close(taken)
        be_tested(request["program"], None if stdio else test, names, writing, token)
    os.close(writing)
    code = waited(child, request["seconds"])
    end(child, code is None)
    said = os.read(reading, 100) if readable(reading) else b""
    os.close(reading)
    loaded, whole = said[:1] == b"L", said[1:17] == token
    try:
        seconds = float(said[17:].decode("ascii")) if whole else -1.0
    except ValueError:
        seconds = -1.0
    if not stdio:
        passed = int(code == 0 and whole)
        return {"passed": passed, "seconds": seconds if passed else -1.0}, code is None and not loaded
    out = taken_back(taken, request["most"])
    os.close(given)
    os.close(taken)
    return {"code": -1 if code is None else code, "seconds": seconds, "out": out}, False


def put(text: str) -> int:
    """A file that holds the text, at its beginning; in memory, as a test may have left the disk full."""
    if hasattr(os, "memfd_create"):
        file = os.memfd_create("text")
    else:  # Python 3.7
        import tempfile

        file, path = tempfile.mkstemp()
        os.remove(path)  # noqa: PTH107
    left = memoryview(text.encode("utf-8", "surrogatepass"))
    while left:
        left = left[os.write(file, left) :]
    os.lseek(file, 0, 0)
    return file


def taken_back(file: int, most: int) -> str:
    os.lseek(file, 0, 0)
    found = b""
    while len(found) <= most:
        more = os.read(file, most + 1 - len(found))
        if not more:
            break
        found += more
    return found.decode("utf-8", "replace")


def waited(child: int, seconds: float) -> int | None:
    """The child's exit code, negative for a signal; None if it has not ended in time."""
    until = time.monotonic() + seconds
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status)
        left = until - time.monotonic()
        if left <= 0:
            return None
        signal.sigtimedwait({signal.SIGCHLD}, left)


def end(child: int, alive: bool) -> None:
    """Ends the child and its group."""
    for kill in (os.killpg, os.kill):
        with suppress(OSError):
            kill(child, signal.SIGKILL)
        if not alive:
            return  # its number may be another's by now; of its group some may be left
    os.waitpid(child, 0)


def readable(file: int) -> bool:
    import select

    return bool(select.select([file], [], [], 0)[0])


def be_tested(program: str, test: str | None, names: dict[str, Any], writing: int, token: bytes) -> None:
    """The child's life. It says that it has loaded, then the token and how long it took."""
    os.setsid()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
    code = 1
    try:
        began = time.monotonic()
        module = types.ModuleType("program" if test is not None else "__main__")
        module.__dict__.update(names)
        module.__dict__["__name__"] = module.__name__
        sys.modules[module.__name__] = module
        sys.argv = ["program.py"]
        if test is None:
            sys.setrecursionlimit(DEEP)
            sys.stdin = open(0, closefd=False)  # noqa: SIM115
            sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
        try:
            exec(compile(program, "<program>", "exec"), module.__dict__)
            os.write(writing, b"L")
            if test is not None:
                began = time.monotonic()
                exec(compile(test, "<test>", "exec"), module.__dict__)
        except SystemExit:
            if test is not None:
                raise
            os.write(writing, b"L")
        took = time.monotonic() - began
        sys.stdout.flush()
        os.write(writing, token + f"{took:.6f}".encode())
        code = 0
    except BaseException:
        with suppress(BaseException):
            sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
