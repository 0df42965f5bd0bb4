"""Build an arch's image, or find the one that was built; prove it, and make it known to the engine.

The answer on stdout is one line: the image's reference or path.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from runner.commands.image._recipe import recipe_arguments, wanted

if TYPE_CHECKING:
    from kit.nouns import Recipe

HELP = "build an arch's image, or find the one that was built"


def arguments(parser: argparse.ArgumentParser) -> None:
    recipe_arguments(parser)
    parser.add_argument(
        "--engine", help="which is to have it: docker, podman, buildah, apptainer (default: the first here)"
    )
    # kit.nouns.FORMATS, written out: importing it would cost every --help more than all the rest.
    parser.add_argument(
        "--format", choices=("oci", "sif"), help="oci (default), or sif (apptainer's default)"
    )
    parser.add_argument(
        "--by",
        choices=("layers", "definition"),
        default="layers",
        help="a SIF of the assembled layers (default), or built by apptainer from the rendered definition",
    )
    parser.add_argument("--push", metavar="REF", help="also push it to a registry: host/name:tag")
    parser.add_argument("--dry-run", action="store_true", help="print what would be built, and build nothing")


def run(args: argparse.Namespace) -> int:
    from kit import say
    from runner import images

    if args.dry_run:
        images.check(args.engine, args.format, args.push)
        _describe(images.planned(wanted(args)))
        return 0
    made = images.make(
        args.arch, line=args.line, base=args.base, platform=args.platform,
        engine=args.engine, format=args.format, push=args.push, defined=args.by == "definition",
    )  # fmt: skip
    say.answer(made.reference)
    return 0


def _describe(recipe: Recipe) -> None:
    """What a dry run prints: the Containerfile of the same image, and on stderr what it is."""
    from kit import say

    say.say(f"would build {recipe.name} ({recipe.platform}) on {recipe.base.reference}")
    say.answer(recipe.containerfile)
