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


LONG = """
from kit import say
title = "pulling host/:100:/[name]@sha256:" + 64 * "0" + " for linux/amd64"
with say.step(title) as update:
    update("abc\\ndef" + 50 * "x")
    import time; time.sleep(0.3)  # some looks of the screen
"""


def test_a_long_title_leaves_room_for_the_rest_and_stands_as_it_is() -> None:
    lines = on_a_terminal(LONG)
    drawn = [each for each in lines if "abc def" in each]
    assert drawn and all(len(each) <= 80 and re.search(r"\d:\d\d:\d\d$", each.strip()) for each in drawn)
    assert all("pulling host/:100:/[name]@sha256:0" in each for each in drawn)
    assert re.match(
        r"pulling host/:100:/\[name\]@sha256:0{64} for linux/amd64: \d\.\d s$", "".join(lines[-2:])
    )


SAYING = """
import threading
from kit import say
both = [threading.Thread(target=lambda: [say.say("a whole line") for _ in range(3000)]) for _ in "ab"]
[each.start() for each in both]
"""


def test_lines_of_two_threads_are_whole() -> None:
    done = subprocess.run(
        [sys.executable, "-u", "-c", SAYING], stderr=subprocess.PIPE, text=True, cwd=ROOT, check=True
    )
    assert set(done.stderr.splitlines()) == {"a whole line"}
