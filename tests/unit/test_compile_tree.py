"""The program that byte-compiles: how it shares out its work."""

from __future__ import annotations

import subprocess
import sys

# A process of its own, as in use: the program waits for any child, and these tests' process has others.
COUNTED = """
from pathlib import Path
from containers import compile_tree

def fails(stage, at, names):
    raise RuntimeError("no room")

most, reap = 0, compile_tree.reap

def counted(running):
    global most
    most = max(most, len(running))
    return reap(running)

compile_tree.compile_slice, compile_tree.reap = fails, counted
print(compile_tree.run(Path(), Path(), [["x"]] * 8, 2), most)
"""


def test_no_more_processes_than_asked_even_after_one_failed() -> None:
    done = subprocess.run([sys.executable, "-c", COUNTED], capture_output=True, text=True, check=True)
    assert done.stdout == "1 2\n"
    assert done.stderr.count("cannot compile: no room\n") == 8
