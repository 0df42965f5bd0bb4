"""Build, prove, find and describe training images.

The answer of `build` is one line on stdout: the image's reference or path.
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

HELP = "build, prove, find and describe training images"


def arguments(parser: argparse.ArgumentParser) -> None:
    """One verb for each file of this folder that does not begin with an underscore."""
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    for name in names():
        module = importlib.import_module(f"{__name__}.{name}")
        entry = verbs.add_parser(name, help=module.HELP, description=module.__doc__, allow_abbrev=False,
                                 formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
        module.arguments(entry)
        entry.set_defaults(verb=module.run)


def names() -> list[str]:
    """The verbs."""
    folder = Path(__file__).parent
    return sorted(each.stem for each in folder.glob("*.py") if not each.stem.startswith("_"))


def run(args: argparse.Namespace) -> int:
    code: int = args.verb(args)
    return code
