"""What `runner node` adds to a command, without containers, Slurm or Ray: python -m tests.bench.nodes [N …]

All N nodes run here, each as one process, with `true` as the command on every node; beside it N starts of a
bare Python that imports what any command line in Python with msgspec does. Wall seconds tell what a job waits
on this machine, CPU seconds a node what it costs whatever else runs.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from kit import process, say
from runner import launch as launches
from runner.launch import Launch
from runner.meeting import Meeting
from runner.runs import RunFolder

ROOT = Path(__file__).parents[2]
MAIN = "import sys; from runner.cli import main; sys.exit(main())"
BARE = "import argparse, pathlib, socket, subprocess, msgspec"


def main() -> None:
    counts = [int(word) for word in sys.argv[1:]] or [1, 4, 16]
    say.answer("nodes  bare wall  bare CPU/node  node wall  node CPU/node")
    for count in counts:
        bare = min(measured([[sys.executable, "-c", BARE]] * count) for _ in range(3))
        node = min(of_nodes(count) for _ in range(3))
        numbers = (*bare, *node)
        say.answer("{:5}  {:7.2f} s  {:11.3f} s  {:7.2f} s  {:11.3f} s".format(count, *numbers))


def of_nodes(count: int) -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as place:
        folder = RunFolder(Path(place) / "run")
        Meeting(folder.attempt(1).meeting).open()
        plan = Launch(run_id="0badcafe", name="b", command=("true",), nodes=count, interface="lo",
                      everywhere=count > 1)  # fmt: skip
        launches.write(plan, folder.launch)
        words = [sys.executable, "-c", MAIN, "node", "--run", str(folder.root), "--rank"]
        return measured([[*words, str(rank)] for rank in range(count)])


def measured(argvs: Sequence[Sequence[str]]) -> tuple[float, float]:
    """Wall seconds of all at once, and CPU seconds of each."""
    before, began = _cpu(), time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        log = Path(place) / "log"
        children = [process.start(argv, what="measure", log=log, cwd=ROOT) for argv in argvs]
        codes = [child.wait() for child in children]
        if any(codes):
            sys.exit(log.read_text())
    return time.monotonic() - began, (_cpu() - before) / len(argvs)


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
