"""A way into a running node, with real processes and a real terminal."""

from __future__ import annotations

import os
import pty
import select
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit import process
from kit.errors import LaunchError, NotFoundError
from runner import attaching

CALL = """
import sys
from runner import attaching, cli
from kit.errors import SlipworksError
try:
    sys.exit(attaching.call(attaching.address(sys.argv[1], 0), sys.argv[2:], 0))
except SlipworksError as failure:
    sys.exit(cli.tell(failure))
"""
ROOT = Path(__file__).parents[2]


@pytest.fixture
def run_id(tmp_path: Path) -> Iterator[str]:
    """Of a node that is open."""
    name = f"test{os.getpid():x}{tmp_path.name}"
    env = {"PATH": os.environ["PATH"], "OF_THE_JOB": "it's here"}
    with attaching.Door(attaching.address(name, 0), lambda: env, str(tmp_path)):
        yield name


def called(run_id: str, *argv: str) -> process.Result:
    words = [sys.executable, "-c", CALL, run_id, *argv]
    return process.run(words, what="call", cwd=ROOT, stdin=b"from the caller", check=False, timeout=60)


def test_streams_and_exit_code_are_the_callers(run_id: str, tmp_path: Path) -> None:
    done = called(run_id, "sh", "-c", 'cat; echo " $OF_THE_JOB in $PWD"; echo no >&2; exit 7')
    assert done == process.Result(7, f"from the caller it's here in {tmp_path}\n", "no\n")


def test_a_signal_is_told_as_a_shell_tells_it(run_id: str) -> None:
    assert called(run_id, "sh", "-c", "kill -KILL $$").code == 137


def test_a_missing_program_is_one_line(run_id: str) -> None:
    done = called(run_id, "no-such-program")
    assert (
        done.code == 50
        and done.err == "error: could not run no-such-program: no-such-program is not installed\n"
    )


def test_nobody_there() -> None:
    with pytest.raises(NotFoundError, match="node 3 of this run does not run on this machine"):
        attaching.call(attaching.address("nobody", 3), ["true"], 3)


def test_strangers_are_not_let_in(run_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    done = called(run_id, "true")
    assert done.code == 50 and "error: node 0 has ended, or does not let this user in" in done.err


def test_no_stranger_gets_the_callers_streams(run_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who listens may be anybody: names of abstract sockets are free for all."""
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(LaunchError, match="another user of this machine listens in place of node 0"):
        attaching.call(attaching.address(run_id, 0), ["true"], 0)


def test_a_taken_name_is_told(run_id: str, capsys: pytest.CaptureFixture[str]) -> None:
    with attaching.Door(attaching.address(run_id, 0), dict, None):
        assert "nobody can attach to this node" in capsys.readouterr().err
    assert called(run_id, "true").code == 0, "the first one is still there"


def test_a_terminal_is_a_terminal(run_id: str) -> None:
    """What is typed arrives, job control works, the size is the caller's, and the caller's is as it was."""
    child, screen = pty.fork()
    if child == 0:
        os.chdir(ROOT)
        termios.tcsetwinsize(0, (33, 111))
        os.execv(
            sys.executable,
            [sys.executable, "-c", CALL, run_id, "sh", "-c", "tty; stty size; read word; exit $word"],
        )
    shown = until(screen, b"\n")
    os.write(screen, b"9\n")
    shown += until(screen, None)
    assert b"/dev/pts/" in shown and b"33 111" in shown, shown
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def until(screen: int, text: bytes | None) -> bytes:
    shown = b""
    deadline = time.monotonic() + 30
    while text is None or text not in shown:
        if not select.select([screen], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise AssertionError(shown)
        try:
            data = os.read(screen, 4096)
        except OSError:
            data = b""
        if not data:
            return shown
        shown += data
    return shown


def test_who_hangs_up_leaves_nothing(run_id: str, tmp_path: Path) -> None:
    words = [sys.executable, "-c", CALL, run_id, "sh", "-c", "echo $$ >pid; exec sleep 1000"]
    caller = process.start(words, what="call", log=tmp_path / "log", cwd=ROOT)
    pid = tmp_path / "pid"
    deadline = time.monotonic() + 30
    while not (pid.exists() and pid.read_text().strip()):
        assert time.monotonic() < deadline and caller.poll() is None
        time.sleep(0.02)
    caller.kill()
    caller.wait()
    while Path("/proc", pid.read_text().strip()).exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
