"""List the sandboxes of this machine: those that were started by hand, and those of your server here.

A sandbox is named by its session. With --json each has the file with its session key, which only its owner
can read, and not the key itself.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from runner.commands.sandbox import _which

if TYPE_CHECKING:
    from runner.sandboxes.here import Seen

HELP = "list the sandboxes of this machine"
HEADS = ("NAME", "STATE", "IMAGE", "ENGINE", "BY", "AGE", "URL")


def arguments(parser: argparse.ArgumentParser) -> None:
    _which.state(parser)
    parser.add_argument("--all", action="store_true", help="those that failed or were stopped, too")
    parser.add_argument("--json", action="store_true", help="as JSON: times in seconds since 1970")


def run(args: argparse.Namespace) -> int:
    from msgspec import json

    from kit import say
    from runner import tables
    from runner.sandboxes import here

    found = here.every(here.folders(args.state))
    shown = [each for each in found if args.all or each.session.live]
    if args.json:
        say.answer(json.format(json.encode([here.told(each) for each in shown])).decode())
        return 0
    tables.show(HEADS, [_row(each) for each in shown], ("AGE",))
    if hidden := len(found) - len(shown):
        say.say(f"{hidden} more failed or were stopped: runner sandbox list --all")
    return 0


def _row(seen: Seen) -> tuple[str, ...]:
    import time

    from runner import moments

    session, by = seen.session, "hand" if seen.by_hand else "server"
    age = moments.lasted(session.began, session.ended or time.time())
    return seen.name, seen.state, session.wish.image, session.engine, by, age, session.url
