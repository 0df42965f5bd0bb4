"""A shell beside the command, in the container of a running node, with the command's environment.

`-- CMD …` runs that instead, and passes its exit code on. From a login node it is a step of the run's job.
"""

from __future__ import annotations

import argparse

HELP = "a shell in a running container"
WORDS = True


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(words=())
    parser.add_argument("run", metavar="RUN", help="see runner status; `-- CMD …` behind it: a command")
    parser.add_argument("--node", default="0", help="its number, or its host's name (default: 0)")
    parser.add_argument("--here", action="store_true", help="only a node of this machine")


def run(args: argparse.Namespace) -> int:
    from runner import entering, following, run_names, watching

    if args.here and args.node.isdecimal():  # also where there is nothing of the runner's but the folder
        folder = run_names.find(args.run, run_names.folder_of_runs())
        return entering.here(folder, int(args.node), args.words)
    folder = run_names.find(args.run, run_names.folder_of_runs())
    now = watching.Watch().by_files(folder)
    return entering.anywhere(now, following.rank_of(now.files, args.node, None), args.words)
