"""Steps as they are told: on a terminal a live line for each, without one a line at begin and end."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kit import say

ROOT = Path(__file__).parents[2]
BOTH = """
import threading
from kit import say
inner, outer = threading.Event(), threading.Event()
def other():
    with say.step("building [stack] cuda") as update:
        update("  a very [bold]long[/bold] line " + "y" * 200)
        inner.set()
        outer.wait(30)
with say.step("bootstrapping") as update:
    threading.Thread(target=other).start()
    inner.wait(30)
    update("unpacking")
    say.say("note: in between")
    outer.wait(1)  # several looks of the screen
outer.set()
"""


def on_a_terminal(code: str) -> list[str]:
    """All lines that are written to a terminal of 80 columns, drawn again or not, without their colours."""
    master, slave = pty.openpty()
    env = {**os.environ, "COLUMNS": "80", "TERM": "xterm", "PYTHONPATH": str(ROOT)}
    child = subprocess.Popen([sys.executable, "-c", code], stderr=slave, env=env)
    os.close(slave)
    written = b""
    try:
        while piece := os.read(master, 65536):
            written += piece
    except OSError:  # Linux says so when nobody has the terminal any more
        pass
    os.close(master)
    assert child.wait(30) == 0
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written.decode()).splitlines()


def test_steps_that_are_under_way_at_once_have_a_line_each() -> None:
    lines = [each.strip() for each in on_a_terminal(BOTH)]
    at = next(number for number, each in enumerate(lines) if "bootstrapping" in each and "unpacking" in each)
    beside = lines[at + 1]
    assert "building [stack] cuda" in beside and "a very [bold]long[/bold] line y" in beside
    assert len(beside) <= 80 and re.search(r"…\s+\d:\d\d:\d\d$", beside)
    assert "note: in between" in lines
    ended = [each for each in lines if re.search(r": \d+\.\d s$", each)]
    assert [each.rpartition(":")[0] for each in ended] == ["bootstrapping", "building [stack] cuda"]


def test_without_a_terminal_a_step_is_two_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with say.step("taking") as update:
        update("not told")
    out, err = capsys.readouterr()
    assert out == "" and re.fullmatch(r"taking …\ntaking: \d+\.\d s\n", err)
    assert say.taken()[-1][0] == "taking"


def test_a_step_that_fails_is_not_told_as_done(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError), say.step("failing"):
        raise ZeroDivisionError
    assert capsys.readouterr().err == "failing …\n"
    assert "failing" not in [what for what, _ in say.taken()]
