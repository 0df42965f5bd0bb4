"""Build an arch's image, or find the one that was built; prove it, and make it known to the engine.

The answer on stdout is one line: the image's reference or path.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from runner.commands.image._recipe import filled, recipe_arguments, wanted

if TYPE_CHECKING:
    from kit.nouns import Format, Recipe

HELP = "build an arch's image, or find the one that was built"


def arguments(parser: argparse.ArgumentParser) -> None:
    recipe_arguments(parser)
    parser.add_argument(
        "--engine",
        type=filled,
        help="which is to have it: docker, podman, buildah, apptainer (default: the first here)",
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
    from kit.errors import UsageError
    from runner import images

    defined = args.by == "definition"
    if defined and args.format == "oci":
        raise UsageError(
            "apptainer makes a SIF of a definition: found --by definition --format oci",
            f"runner image build {args.arch} --by definition --format sif",
        )
    format: Format | None = "sif" if defined else args.format
    if args.dry_run:
        images.check(args.engine, format, args.push)
        _describe(images.planned(wanted(args, defined=defined)), defined)
        return 0
    made = images.make(
        args.arch, line=args.line, base=args.base, platform=args.platform,
        engine=args.engine, format=format, push=args.push, defined=defined,
    )  # fmt: skip
    say.answer(made.reference)
    return 0


def _describe(recipe: Recipe, defined: bool) -> None:
    """What a dry run prints: the Containerfile of the same image, or the definition that apptainer would be
    given; and on stderr what it is."""
    from kit import say

    say.say(f"would build {recipe.name} ({recipe.platform}) on {recipe.base.reference}")
    say.answer(recipe.apptainer_def if defined else recipe.containerfile)
