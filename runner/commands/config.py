"""Print every setting with its value and where it came from."""

from __future__ import annotations

import argparse

HELP = "print each setting with its source"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="as JSON: name -> {value, source}")


def run(args: argparse.Namespace) -> int:
    from msgspec import json

    from kit import say, settings

    loaded = settings.load()
    values = {name: getattr(loaded.settings, name) for name in settings.NAMES}
    if args.json:
        table = {name: {"value": value, "source": loaded.sources[name]} for name, value in values.items()}
        say.answer(json.format(json.encode(table)).decode())
        return 0
    for name, value in values.items():
        say.answer(f"{name:<12} {'-' if value is None else value}  ({loaded.sources[name]})")
    say.say(f"user file: {settings.user_file()}")
    return 0
