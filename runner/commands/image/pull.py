"""Pull the image of one platform from a registry into the store. What is there already is not asked for.

The answer is its name there, which the other verbs take.
"""

from __future__ import annotations

import argparse

HELP = "pull an image from a registry into the store"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("reference", metavar="REF", help="host/name:tag or host/name@sha256:…")
    parser.add_argument("--platform", help="linux/amd64 or linux/arm64 (default: this machine's)")
    parser.add_argument("--name", help="its name in the store (default: of the reference and the digest)")


def run(args: argparse.Namespace) -> int:
    from image_cache import oci, transfer
    from kit import say
    from kit.nouns import Platform
    from runner import images

    platform = Platform.parse(args.platform) if args.platform else Platform.host()
    if args.name:
        oci.check_name(args.name)
    with say.step(f"pulling {args.reference} for {platform}") as update:
        image = transfer.pull(args.reference, platform, images.store(), update, name=args.name)
    say.answer(image.name)
    return 0
