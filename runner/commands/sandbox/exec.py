"""Run a command in a sandbox, beside its agent-server: `-- CMD …`, else a shell; its exit code is passed on.

It runs as the sandbox's user, in the image's environment.
"""

from __future__ import annotations

import argparse

from runner.commands.sandbox import _which

HELP = "run a command in a sandbox"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(words=())
    parser.add_argument("sandbox", metavar="SANDBOX", help=f"{_which.NAME}; `-- CMD …` behind it: a command")
    _which.state(parser)
    parser.add_argument(
        "--json",
        action="store_true",
        help="as JSON, once it ended: exit code and output; 0 whatever it ends with",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the engine's command, and run nothing")


def run(args: argparse.Namespace) -> int:
    import os
    import sys

    from msgspec import json

    from kit import process, say, shell
    from runner import entering
    from runner.sandboxes import here

    seen = here.one(args.sandbox, here.every(here.folders(args.state)))
    terminal = not args.json and sys.stdin.isatty() and sys.stdout.isatty()
    argv = here.entered(seen, args.words or entering.SHELL, terminal=terminal)
    if args.dry_run:
        say.answer(shell.line(argv))
        return 0
    if args.json:
        done = process.run(argv, what=f"run a command in {seen.name}", check=False)
        told = {"name": seen.name, "exit_code": done.code, "stdout": done.out, "stderr": done.err}
        say.answer(json.format(json.encode(told)).decode())
        return 0
    process.become(argv, what=f"run a command in {seen.name}", env=os.environ)
