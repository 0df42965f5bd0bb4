"""A command that is a package: one verb for each of its files that does not begin with an underscore."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path


def arguments(parser: argparse.ArgumentParser, package: str) -> None:
    """Adds the verbs of a package, by its name; what is chosen is `verb` of the arguments, which runs.

    A verb may be called `run`: as a module of the package it hides a function of that name.
    """
    parser.set_defaults(command=Chosen)
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    for name in names(package):
        module = importlib.import_module(f"{package}.{name}")
        entry = verbs.add_parser(name, help=module.HELP, description=module.__doc__, allow_abbrev=False,
                                 formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
        module.arguments(entry)
        entry.set_defaults(verb=module.run)


class Chosen:
    """The command of a package: the verb that was chosen."""

    @staticmethod
    def run(args: argparse.Namespace) -> int:
        code: int = args.verb(args)
        return code


def names(package: str) -> list[str]:
    """The verbs."""
    (folder,) = importlib.import_module(package).__path__
    return sorted(each.stem for each in Path(folder).glob("*.py") if not each.stem.startswith("_"))
