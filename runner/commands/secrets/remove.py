"""Remove stored secrets. Jobs that wait or run have theirs already."""

from __future__ import annotations

import argparse

HELP = "remove stored secrets"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="+", metavar="NAME", help="see runner secrets list")


def run(args: argparse.Namespace) -> int:
    from kit import say
    from kit.suggest import unknown
    from runner import own_secrets

    with own_secrets.changing() as values:
        for name in args.name:
            if name not in values:
                raise unknown("secret", name, sorted(values))
        for name in dict.fromkeys(args.name):
            del values[name]
    say.say(f"removed from {own_secrets.file()}: {', '.join(dict.fromkeys(args.name))}")
    return 0
