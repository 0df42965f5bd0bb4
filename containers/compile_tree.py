"""Byte-compiles folders, the same bytes on every machine and with any number of processors.

Run as a program by the interpreter that the byte code is for, so it imports nothing of ours. Arguments: how
many processes; the folder that stands for a place in the image; that place; folders relative to both.

The .pyc files name their sources by the image's paths and hold a hash of them (PEP 552): a source that
someone edits is compiled again, one whose time alone changed is not. A file that does not compile (templates,
old syntax) is left as it is, as installers do.

What is marshalled depends on which objects the process holds already. So every slice of files is compiled by
a process of its own, forked from this one before it compiled anything.
"""

import contextlib
import gc
import os
import py_compile
import sys
from pathlib import Path

SLICE = 100  # files of one process: enough to hide the fork, few enough to share out evenly


def sources(stage: Path, folders: list[str]) -> list[str]:
    """All .py files below the folders, relative to the stage, in a fixed order."""
    found = []
    for folder in folders:
        for above, below, names in os.walk(stage / folder):
            below[:] = sorted(each for each in below if each != "__pycache__")
            found += [os.path.relpath(Path(above) / each, stage) for each in names if each.endswith(".py")]
    return sorted(found)


def compile_slice(stage: Path, at: Path, names: list[str]) -> None:
    """Compiles some files."""
    for name in names:
        path = stage / name
        if path.is_symlink() and not path.exists():
            continue
        with contextlib.suppress(py_compile.PyCompileError, UnicodeDecodeError, ValueError, RecursionError):
            py_compile.compile(
                str(path), dfile=str(at / name), doraise=True, quiet=2,
                invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH,
            )  # fmt: skip


def run(stage: Path, at: Path, slices: list[list[str]], jobs: int) -> int:
    """Compiles slices, `jobs` at a time; 0, or the first exit status of a process that died."""
    running: set[int] = set()
    failed = 0
    for names in slices:
        if len(running) >= jobs:
            failed = reap(running) or failed
        child = os.fork()
        if child == 0:
            try:
                compile_slice(stage, at, names)
            except BaseException as bad:
                os.write(2, f"cannot compile: {bad}\n".encode(errors="replace"))  # at once, line by line
                os._exit(1)
            os._exit(0)
        running.add(child)
    while running:
        failed = reap(running) or failed
    return failed


def reap(running: set[int]) -> int:
    """Waits for one of our processes; whoever calls `run` may have others."""
    while True:
        child, status = os.wait()
        if child in running:
            running.remove(child)
            return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    gc.disable()  # short-lived processes that make no cycles worth the search
    jobs, stage, at = int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
    found = sources(stage, sys.argv[4:])
    sys.exit(run(stage, at, [found[n : n + SLICE] for n in range(0, len(found), SLICE)], jobs) and 1)
