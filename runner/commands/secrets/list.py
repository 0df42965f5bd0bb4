"""List the names of the stored secrets."""

from __future__ import annotations

import argparse

HELP = "list the names of the stored secrets"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="as JSON: a list of names")


def run(args: argparse.Namespace) -> int:
    from msgspec import json

    from kit import say
    from runner import own_secrets

    names = sorted(own_secrets.read())
    if args.json:
        say.answer(json.encode(names).decode())
        return 0
    for name in names:
        say.answer(name)
    say.say(f"{len(names)} in {own_secrets.file()}")
    return 0
