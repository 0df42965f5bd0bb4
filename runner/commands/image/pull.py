"""Pull the image of one platform from a registry into the store. What is there already is not asked for.

The answer is its name there, which the other verbs take.
"""

from __future__ import annotations

import argparse

from runner.commands.image._recipe import filled

HELP = "pull an image from a registry into the store"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("reference", metavar="REF", help="host/name:tag or host/name@sha256:…")
    parser.add_argument(
        "--platform", type=filled, help="linux/amd64 or linux/arm64 (default: this machine's)"
    )
    parser.add_argument(
        "--name", type=filled, help="its name in the store (default: of the reference and the digest)"
    )


def run(args: argparse.Namespace) -> int:
    from image_cache import oci, transfer
    from image_cache.references import Reference
    from kit import say
    from kit.nouns import Platform
    from runner import images

    Reference.parse(args.reference)  # before anything is told of a pull
    platform = Platform.parse(args.platform) if args.platform else Platform.host()
    if args.name:
        oci.check_name(args.name)
    with say.step(f"pulling {args.reference} for {platform}") as update:
        image = transfer.pull(args.reference, platform, images.store(), update, name=args.name)
    say.answer(image.name)
    return 0
