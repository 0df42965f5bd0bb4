"""Print all that is known of an image in the store."""

from __future__ import annotations

import argparse

HELP = "print all that is known of an image in the store"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", help="its name, key or digest, or the beginning of one")
    parser.add_argument("--format", choices=("oci", "sif"), help="which, where there are both of one name")


def run(args: argparse.Namespace) -> int:
    from msgspec import json

    from kit import say
    from runner import images

    described = images.described(args.image, args.format)
    say.answer(json.format(json.encode(described, enc_hook=str)).decode())
    return 0
