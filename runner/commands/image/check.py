"""Hold every file of an image against its digest: does the disk still have what was put there?

Whether an image can do what it is for is another question, which `runner image verify` answers.
"""

from __future__ import annotations

import argparse

HELP = "hold an image's files against their digests"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", nargs="?", help="its name, key or digest, or the beginning of one")
    parser.add_argument("--all", action="store_true", help="every image and layer of the store")
    parser.add_argument("--format", choices=("oci", "sif"), help="which, where there are both of one name")
    parser.add_argument(
        "--remove", action="store_true", help="remove what is damaged, so that it is built or pulled anew"
    )


def run(args: argparse.Namespace) -> int:
    from kit import say
    from kit.errors import UsageError, VerifyError
    from runner import images, shelf

    if (args.image is None) != args.all:
        raise UsageError("give an image or --all, and not both", "runner image check --all")
    store = images.store()
    found = store.list() if args.all else (images.named(args.image, args.format),)
    with say.step(f"reading {len(found)} images"):
        damages = shelf.damages(store, found, layers=args.all)
    for each in damages:
        say.answer(f"{each.path}: {each.wrong}: needed by {', '.join(each.of)}")
        if args.remove:
            each.path.unlink(missing_ok=True)
    if not damages:
        say.answer("all files are what their digests say")
        return 0
    if args.remove:
        say.say(f"{len(damages)} damaged files were removed: they are built or pulled anew when asked for")
        return 0
    again = "--all" if args.all else f"{found[0].name} --format {found[0].format}"
    raise VerifyError(
        f"{len(damages)} files are damaged",
        f"runner image check {again} --remove  # then build or pull it again",
    )
