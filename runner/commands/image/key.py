"""Print an image's key: the hash of all that goes into it."""

from __future__ import annotations

import argparse

from runner.commands.image._recipe import recipe_arguments, wanted

HELP = "print the key: the hash of all that goes into an image"


def arguments(parser: argparse.ArgumentParser) -> None:
    recipe_arguments(parser)
    parser.add_argument("--explain", action="store_true", help="also print each thing that goes in")
    parser.add_argument("--json", action="store_true", help="key and inputs as JSON")


def run(args: argparse.Namespace) -> int:
    from msgspec import json

    from kit import say
    from runner import images

    recipe = images.planned(wanted(args))
    if args.json:
        say.answer(json.format(json.encode({"key": recipe.key, "inputs": recipe.inputs})).decode())
        return 0
    say.answer(recipe.key)
    if args.explain:
        width = max(map(len, recipe.inputs))
        for name, value in sorted(recipe.inputs.items()):
            say.answer(f"  {name:<{width}}  {value}")
    return 0
