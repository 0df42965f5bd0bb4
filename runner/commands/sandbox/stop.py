"""Stop sandboxes: TERM, and KILL ten seconds later (or --grace); nothing of their containers is left.

One of a server that runs is stopped by that server. --all means every one that was started by hand; with
--state, every one of that server, and what a killed one left.
"""

from __future__ import annotations

import argparse

from runner.commands import _numbers
from runner.commands.sandbox import _which

HELP = "stop sandboxes"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sandbox", nargs="*", metavar="SANDBOX", help=_which.NAME)
    parser.add_argument("--all", action="store_true", help="all that were started by hand")
    _which.state(parser)
    parser.add_argument(
        "--grace", type=_numbers.count, default=10, metavar="SECONDS",
        help="between TERM and KILL, of those that no running server stops (default: 10)",
    )  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="name what would be stopped, and stop nothing")
    parser.add_argument("--json", action="store_true", help="what was stopped, as JSON")


def run(args: argparse.Namespace) -> int:
    from msgspec import json

    from kit import say
    from kit.errors import UsageError
    from runner.sandboxes import here, stopping

    if bool(args.sandbox) == args.all:
        raise UsageError("expected names of sandboxes, or --all", "runner sandbox list")
    known = here.every(here.folders(args.state))
    if args.all:
        living = [each for each in known if each.session.live or each.state == here.LEFT]
        meant = [each for each in living if each.by_hand or args.state]
    else:
        meant = list(
            {one.session.id: one for one in (here.one(word, known) for word in args.sandbox)}.values()
        )
    if not args.dry_run:
        stopping.stop(meant, args.grace)
    if args.json:
        told = [{"name": each.name, "id": each.session.id, "was": each.state} for each in meant]
        say.answer(json.format(json.encode(told)).decode())
        return 0
    for each in meant:
        say.answer(each.name)
    if not meant:
        say.say("none lives")
    return 0
