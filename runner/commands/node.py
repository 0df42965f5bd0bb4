"""Be one node of a job: gather facts, apply fixes, bring up Ray, run the command, end all that was started.

Runs inside the job's container, once a node; the launcher or the batch script starts it.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from kit.errors import UsageError

BARE = True  # what a node needs is in its run folder
HELP = "be one node of a job (started by the launcher)"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run", required=True, type=Path, metavar="FOLDER", help="the run folder")
    parser.add_argument("--attempt", type=int, default=1, help="which start of the job this is")
    parser.add_argument("--rank", type=int, help="which node this is (default: $SLIPWORKS_RANK)")


def run(args: argparse.Namespace) -> int:
    from runner import node

    rank = os.environ.get("SLIPWORKS_RANK", "") if args.rank is None else str(args.rank)
    if not rank.isdecimal():
        where = "SLIPWORKS_RANK" if args.rank is None else "--rank"
        raise UsageError(f"{where} is {rank!r}, expected the node's number", "runner submit JOB.YAML")
    return node.run(args.run, args.attempt, int(rank))
