"""The end of what a sandbox wrote: its agent-server's own log."""

from __future__ import annotations

import argparse

from runner.commands import _numbers
from runner.commands.sandbox import _which

HELP = "the end of a sandbox's log"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sandbox", metavar="SANDBOX", help=_which.NAME)
    parser.add_argument(
        "--lines", type=_numbers.count, default=100, metavar="N", help="so many (default: 100)"
    )
    _which.state(parser)
    parser.add_argument("--json", action="store_true", help="as JSON: name, state and log")


def run(args: argparse.Namespace) -> int:
    from msgspec import json

    from kit import say
    from runner.sandboxes import here

    seen = here.one(args.sandbox, here.every(here.folders(args.state)))
    log = here.log(seen, args.lines)
    if args.json:
        told = {"name": seen.name, "id": seen.session.id, "state": seen.state, "why": seen.session.why}
        say.answer(json.format(json.encode(told | {"log": log})).decode())
        return 0
    if log:
        say.answer(log.rstrip("\n"))
    if seen.session.why:
        say.say(f"{seen.name} is {seen.state}: {seen.session.why}")
    return 0
