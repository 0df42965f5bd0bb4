"""List the images in the store."""

from __future__ import annotations

import argparse

HELP = "list the images in the store"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(args: argparse.Namespace) -> int:
    from msgspec import json

    from kit import say
    from runner import images

    found = images.store().list()
    if args.json:
        say.answer(json.format(json.encode(found, enc_hook=str)).decode())
        return 0
    for image in found:
        say.answer(f"{image.name}  {image.format}  {image.platform}  {image.digest}")
    return 0
