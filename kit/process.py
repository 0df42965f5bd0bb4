"""The one door to subprocesses.

Commands are argv lists; no shell is ever started here. Secrets go through `env` or `stdin`, never argv.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from msgspec import Struct

from kit.errors import BuildError, MissingToolError, NoSpaceError, SlipworksError

TAIL = 15  # lines of output that an error quotes

Child = subprocess.Popen
"""A running command, for those who may not import subprocess."""
TimeoutExpired = subprocess.TimeoutExpired
"""What waiting for one raises when the time is over."""


class Result(Struct, frozen=True):
    """What a finished command left: its exit code, and its output as text (undecodable bytes replaced)."""

    code: int
    out: str
    err: str


def find(program: str, hint: str) -> Path:
    """The program's path, or MissingToolError with the hint that installs it."""
    found = shutil.which(program)
    if found is None:
        raise MissingToolError(f"{program} is not installed (not on PATH)", hint)
    return Path(found)


def run(
    argv: Sequence[str | Path],
    *,
    what: str,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: bytes | None = None,
    timeout: float | None = None,
    check: bool = True,
    error: type[SlipworksError] = BuildError,
    errors: str = "replace",
    keep: Sequence[int] = (),
) -> Result:
    """Runs a short command to its end and returns its output.

    `what` completes the sentence "could not …". With `check`, a non-zero exit raises `error` with the last
    lines of the output. `env` is the whole environment where given. `errors`: what becomes of bytes that are
    no text; "surrogateescape" keeps them, as in names of files. `keep`: descriptors that it gets, by number.
    """
    command = [os.fspath(word) for word in argv]
    try:
        done = subprocess.run(
            command,
            env=env,
            cwd=cwd,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            timeout=timeout,
            capture_output=True,
            check=False,
            pass_fds=keep,
        )
    except FileNotFoundError as missing:
        raise MissingToolError(f"could not {what}: {command[0]} is not installed") from missing
    except subprocess.TimeoutExpired as slow:
        raise error(f"could not {what}: {command[0]} gave no answer in {timeout:g} s") from slow
    result = Result(done.returncode, _text(done.stdout, errors), _text(done.stderr))
    if check and result.code:
        raise _failure(what, command[0], result.code, (result.out + result.err).splitlines(), error)
    return result


def stream(
    argv: Sequence[str | Path],
    *,
    what: str,
    on_line: Callable[[str], None],
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdout: Path | None = None,
    check: bool = True,
    error: type[SlipworksError] = BuildError,
) -> int:
    """Runs a long command and hands over each line of its output as it comes; returns the exit code.

    Output is stderr and stdout together, or stderr alone where `stdout` names a file that receives stdout.
    The child gets a process group of its own; if this process is interrupted the group is ended first.
    """
    command = [os.fspath(word) for word in argv]
    tail: deque[str] = deque(maxlen=TAIL)
    child = _piped(command, what, env, cwd, stdout)
    source = child.stderr if stdout else child.stdout
    assert source is not None
    _streaming.add(child)
    try:
        for raw in source:
            line = _text(raw).rstrip("\r\n")
            tail.append(line)
            on_line(line)
        code = child.wait()
    except BaseException:
        end_group(child)
        raise
    finally:
        _streaming.discard(child)
    if check and code:
        raise _failure(what, command[0], code, list(tail), error)
    return code


def _piped(
    command: Sequence[str], what: str, env: Mapping[str, str] | None, cwd: Path | None, stdout: Path | None
) -> subprocess.Popen[bytes]:
    sink = stdout.open("wb") if stdout else None
    try:
        return subprocess.Popen(
            command, env=env, cwd=cwd, stdin=subprocess.DEVNULL, start_new_session=True,
            stdout=sink or subprocess.PIPE, stderr=subprocess.PIPE if sink else subprocess.STDOUT,
        )  # fmt: skip
    except FileNotFoundError as missing:
        raise MissingToolError(f"could not {what}: {command[0]} is not installed") from missing
    finally:
        if sink:
            sink.close()


_streaming: set[subprocess.Popen[bytes]] = set()


def end_streams(grace: float = 2.0) -> None:
    """Ends what `stream` runs in any thread of this process, so that the threads come to an end: to them it
    has failed. For a process that is interrupted; its main thread alone would be told."""
    for child in list(_streaming):
        end_group(child, grace)


def start(
    argv: Sequence[str | Path],
    *,
    what: str,
    log: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | str | None = None,
) -> subprocess.Popen[bytes]:
    """Starts a command that goes on by itself, in a session of its own; its output is appended to `log`.

    The caller ends it, with `end_group` at the latest.
    """
    command = [os.fspath(word) for word in argv]
    with log.open("ab") as sink:
        try:
            return subprocess.Popen(
                command, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        except FileNotFoundError as missing:
            if cwd is not None and not Path(cwd).is_dir():
                raise MissingToolError(f"could not {what}: there is no folder {cwd}") from missing
            raise MissingToolError(f"could not {what}: {command[0]} is not installed") from missing
        except PermissionError as refused:
            raise MissingToolError(f"could not {what}: {command[0]} is not executable") from refused


TAKE_TERMINAL = "import os, sys; os.login_tty(0); os.execvpe(sys.argv[1], sys.argv[1:], os.environ)"


def hand_over(
    argv: Sequence[str],
    *,
    what: str,
    streams: tuple[int, int, int],
    env: Mapping[str, str],
    cwd: str | None,
    terminal: bool,
) -> subprocess.Popen[bytes]:
    """Starts a command on somebody else's standard streams, in a session of its own.

    With `terminal` the first of them becomes its controlling terminal.
    """
    program = shutil.which(argv[0], path=env.get("PATH"))
    if program is None:
        raise MissingToolError(f"could not {what}: {argv[0]} is not installed")
    command = [program, *argv[1:]]
    if terminal:
        command = [sys.executable, "-c", TAKE_TERMINAL, *command]
    stdin, stdout, stderr = streams
    return subprocess.Popen(
        command, env=env, cwd=cwd, stdin=stdin, stdout=stdout, stderr=stderr, start_new_session=not terminal
    )


def become(argv: Sequence[str], *, what: str, env: Mapping[str, str]) -> NoReturn:
    """Turns this process into another program, which has its streams, its terminal and its exit code."""
    program = shutil.which(argv[0], path=env.get("PATH"))
    if program is None:
        raise MissingToolError(f"could not {what}: {argv[0]} is not installed")
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(program, list(argv), dict(env))


def finish(argv: Sequence[str | Path], *, what: str, limit: float = 60.0) -> None:
    """Runs a command that cleans up, whatever comes of it, for at most `limit` seconds.

    It has a session of its own: a further Ctrl-C at the terminal does not end it half-way.
    """
    child = start(argv, what=what, log=Path(os.devnull))
    try:
        child.wait(limit)
    except subprocess.TimeoutExpired:
        end_group(child)


def end_group(child: subprocess.Popen[bytes], grace: float = 5.0) -> None:
    """Ends a child that was started in its own session, and its group: TERM, then KILL for what is left.

    Returns when none of them is alive (or cannot be killed: stuck in the kernel, after another `grace`).
    """
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, sign)
        deadline = time.monotonic() + grace
        # No event tells of the end of processes that are not our children.
        while (left := child.poll() is None or _group_lives(child.pid)) and time.monotonic() < deadline:
            time.sleep(0.01)
        if not left:
            break
    child.wait()


def _group_lives(group: int) -> bool:
    """Whether a process of the group is alive; zombies, which only their parent can end, do not count."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                state, _, owner = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
                if int(owner) == group and state != "Z":
                    return True
    return False


def _text(raw: bytes, errors: str = "replace") -> str:
    return raw.decode("utf-8", errors)


def _failure(
    what: str, program: str, code: int, lines: list[str], error: type[SlipworksError]
) -> SlipworksError:
    tail = "\n".join(f"  {line}" for line in lines[-TAIL:] if line.strip())
    message = f"could not {what}: {program} ended with exit code {code}"
    if any("No space left on device" in line or "Disk quota exceeded" in line for line in lines):
        return NoSpaceError(
            f"could not {what}: no space left on the device", "df -h; runner config | grep cache"
        )
    return error(f"{message}, its last lines:\n{tail}" if tail else message)
