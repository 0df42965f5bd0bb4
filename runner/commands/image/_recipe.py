"""The arguments that say which image is meant, by what it is made of."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runner.planning import Wanted


def recipe_arguments(parser: argparse.ArgumentParser) -> None:
    """ARCH, --line, --base, --platform."""
    parser.add_argument("arch", help="a file of definitions/archs, such as gh200")
    parser.add_argument("--line", type=filled, help="the stack (default: the arch's)")
    parser.add_argument("--base", type=filled, help="the base (default: the arch's)")
    parser.add_argument("--platform", type=filled, help="linux/amd64 or linux/arm64, where the arch has both")


def filled(text: str) -> str:
    """An option's value. Nothing is no value: an empty variable of a script must not mean the default."""
    if not text.strip():
        raise argparse.ArgumentTypeError(f"expected a value, found {text!r}")
    return text


def wanted(args: argparse.Namespace, *, defined: bool = False) -> Wanted:
    """What those arguments ask for."""
    from runner.planning import Wanted

    return Wanted(arch=args.arch, line=args.line, base=args.base, platform=args.platform, defined=defined)
