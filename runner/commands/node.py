"""Be one node of a job: gather facts, apply fixes, bring up Ray, run the command, end all that was started.

Runs inside the job's container, once a node; the launcher starts it. SLIPWORKS_RANK says which node this is.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from kit.errors import UsageError

HELP = "be one node of a job (started by the launcher)"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run", required=True, type=Path, metavar="FOLDER", help="the run folder")
    parser.add_argument("--attempt", type=int, default=1, help="which start of the job this is")


def run(args: argparse.Namespace) -> int:
    from runner import node

    rank = os.environ.get("SLIPWORKS_RANK", "")
    if not rank.isdigit():
        raise UsageError(f"SLIPWORKS_RANK is {rank!r}, expected the node's number", "runner submit JOB.YAML")
    return node.run(args.run, args.attempt, int(rank))
