"""Build, find and describe training images.

The answer of `build` is one line on stdout: the image's reference or path.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kit.nouns import Recipe
    from runner.planning import Wanted

HELP = "build, find and describe training images"


def arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(metavar="VERB", required=True)

    build = verbs.add_parser("build", help="build an arch's image, or find the one that was built")
    _recipe_arguments(build)
    build.add_argument(
        "--engine", help="docker, podman, buildah or apptainer (default: the first that works)"
    )
    # kit.nouns.FORMATS, written out: importing it would cost every --help more than all the rest.
    build.add_argument("--format", choices=("oci", "sif"), help="oci (default), or sif (apptainer's default)")
    build.add_argument("--push", metavar="REF", help="also push it to a registry: host/name:tag")
    build.add_argument("--dry-run", action="store_true", help="print what would be built, and build nothing")
    build.set_defaults(verb=_build)

    key = verbs.add_parser("key", help="print the key: the hash of all that goes into an image")
    _recipe_arguments(key)
    key.add_argument("--explain", action="store_true", help="also print each thing that goes in")
    key.add_argument("--json", action="store_true", help="key and inputs as JSON")
    key.set_defaults(verb=_key)

    render = verbs.add_parser(
        "render", help="write the committed Containerfile and Apptainer definition of every arch"
    )
    render.add_argument(
        "--check", action="store_true", help="write nothing; fail if a committed file differs"
    )
    render.set_defaults(verb=_render)

    listing = verbs.add_parser("list", help="list the images in the store")
    listing.add_argument("--json", action="store_true", help="as JSON")
    listing.set_defaults(verb=_list)

    show = verbs.add_parser("show", help="print all that is known of an image in the store")
    show.add_argument("image", help="its name, key or digest, or the beginning of one")
    show.add_argument("--format", choices=("oci", "sif"), help="which, where there are both of one name")
    show.set_defaults(verb=_show)


def run(args: argparse.Namespace) -> int:
    code: int = args.verb(args)
    return code


def _recipe_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("arch", help="a file of definitions/archs, such as gh200")
    parser.add_argument("--line", help="the stack (default: the arch's)")
    parser.add_argument("--base", help="the base (default: the arch's)")
    parser.add_argument("--platform", help="linux/amd64 or linux/arm64, where the arch has both")


def _wanted(args: argparse.Namespace) -> Wanted:
    from runner.planning import Wanted

    return Wanted(arch=args.arch, line=args.line, base=args.base, platform=args.platform)


def _build(args: argparse.Namespace) -> int:
    from kit import say
    from runner import images

    if args.dry_run:
        images.check(args.engine, args.format, args.push)
        _describe(images.planned(_wanted(args)))
        return 0
    made = images.make(
        args.arch, line=args.line, base=args.base, platform=args.platform,
        engine=args.engine, format=args.format, push=args.push,
    )  # fmt: skip
    say.answer(made.reference)
    return 0


def _describe(recipe: Recipe) -> None:
    """What a dry run prints: the Containerfile as it would be built, and on stderr what it is."""
    from kit import say

    say.say(f"would build {recipe.name} ({recipe.platform}) on {recipe.base.reference}")
    say.answer(recipe.containerfile)


def _key(args: argparse.Namespace) -> int:
    from msgspec import json

    from kit import say
    from runner import images

    recipe = images.planned(_wanted(args))
    if args.json:
        say.answer(json.format(json.encode({"key": recipe.key, "inputs": recipe.inputs})).decode())
        return 0
    say.answer(recipe.key)
    if args.explain:
        width = max(map(len, recipe.inputs))
        for name, value in sorted(recipe.inputs.items()):
            say.answer(f"  {name:<{width}}  {value}")
    return 0


def _render(args: argparse.Namespace) -> int:
    from runner import images

    images.render(check=args.check)
    return 0


def _list(args: argparse.Namespace) -> int:
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


def _show(args: argparse.Namespace) -> int:
    from msgspec import json

    from kit import say
    from runner import images

    described = images.described(args.image, args.format)
    say.answer(json.format(json.encode(described, enc_hook=str)).decode())
    return 0
