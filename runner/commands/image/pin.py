"""Keep an image in the store whatever its age, or let it go again."""

from __future__ import annotations

import argparse

HELP = "keep an image whatever its age"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", help="its name, key or digest, or the beginning of one")
    parser.add_argument("--format", choices=("oci", "sif"), help="which, where there are both of one name")
    parser.add_argument("--remove", action="store_true", help="take the pin away")


def run(args: argparse.Namespace) -> int:
    from kit import say
    from runner import images

    store = images.store()
    image = images.named(args.image, args.format)
    with store.writable():
        (store.pins.drop if args.remove else store.pins.put)(image.key, image.format)
    say.answer(f"{image.name} ({image.format}) is {'not pinned' if args.remove else 'pinned'}")
    return 0
