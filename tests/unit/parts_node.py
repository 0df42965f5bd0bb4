"""`runner node` as a real process, for the tests of its parts."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec import json

from kit import process
from runner import family
from runner import launch as launches
from runner.launch import Launch
from runner.meeting import Meeting
from runner.runs import RunFolder

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path, nothing_survives: None) -> RunFolder:
    made = RunFolder(tmp_path / 'a run\'s "folder" 0badcafe')
    made.root.mkdir()
    Meeting(made.attempt(1).meeting).open()
    return made


@pytest.fixture
def nothing_survives() -> Iterator[None]:
    family.adopt_orphans()
    before = set(family.descendants(os.getpid()))  # parts of live tests that still run
    yield
    assert not set(family.descendants(os.getpid())) - before


def node_argv(folder: RunFolder, rank: int, path: str = "") -> list[str]:
    variables = {
        "PATH": f"{path}:{os.environ['PATH']}", "HOME": str(folder.root), "SLIPWORKS_RANK": str(rank),
        "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    main = "import sys; from runner.cli import main; sys.exit(main())"
    words = [f"{name}={value}" for name, value in variables.items()]
    return ["/usr/bin/env", "-i", *words, sys.executable, "-c", main, "node", "--run", str(folder.root)]


def job(folder: RunFolder, *command: str, **more: object) -> Launch:
    made = Launch(run_id="0badcafe", name="t", command=command, **more)  # type: ignore[arg-type]
    launches.write(made, folder.launch)
    return made


def start(folder: RunFolder, rank: int = 0, path: str = "") -> process.Child[bytes]:
    """A node, its output where Slurm would put it."""
    return process.start(node_argv(folder, rank, path), what="test", log=folder.attempt(1).log(rank))


def ended(folder: RunFolder, *nodes: process.Child[bytes]) -> tuple[list[int], list[str]]:
    """The nodes to their ends: exit codes and logs, by rank."""
    codes = [child.wait(60) for child in nodes]
    logs = [text(folder.attempt(1).log(rank)) for rank in range(len(nodes))]
    assert not any("Traceback" in log for log in logs), logs
    return codes, logs


def alone(folder: RunFolder) -> tuple[int, str]:
    """Node 0 to its end: exit code and log."""
    codes, logs = ended(folder, start(folder))
    return codes[0], logs[0]


def text(log: Path) -> str:
    return log.read_text() if log.exists() else ""


def seen(condition: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def events(folder: RunFolder, rank: int) -> list[str]:
    lines = folder.attempt(1).events(str(rank)).read_bytes().splitlines()
    return [json.decode(line)["event"] for line in lines]
