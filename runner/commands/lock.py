"""Writes the locks of the lines: every package with its version and hashes, for each platform and Python.

A lock that fits its input is left alone. Versions stay as they are where they still fit, so that a changed
pin is a small difference; --upgrade takes the newest that the line's date allows.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from definitions.lines import Line
    from kit.nouns import Platform

HELP = "write the stacks' hash locks, or check that they fit their inputs"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--line", help="only this line")
    parser.add_argument("--arch", help="only this arch's line and platforms")
    parser.add_argument("--again", action="store_true", help="resolve also what fits its input")
    parser.add_argument("--upgrade", action="store_true", help="resolve anew, keeping no version")
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a lock does not fit")


def run(args: argparse.Namespace) -> int:
    import os

    from containers import secrets
    from definitions import locking
    from kit import say
    from kit.errors import DriftError

    todo = []
    for line, platform in _asked(args.arch, args.line):
        for python in line.pythons:
            reason = locking.stale(line, platform, python)
            if reason:
                say.say(reason)
            if reason or ((args.again or args.upgrade) and not args.check):
                todo.append((line, platform, python))
    if args.check and todo:
        raise DriftError(f"{len(todo)} locks do not fit their input", "make lock")
    if not todo:
        say.say("every lock fits its input")
        return 0
    environment = locking.environment(os.environ, secrets.index_values(os.environ))
    for line, platform, python in todo:
        with say.step(f"locking {line.name}, Python {python}, {platform}"):
            written = locking.lock(line, [platform], [python], environment, upgrade=args.upgrade)[0]
        say.say(f"{written.packages} packages; changed: {_listed(written.changed)}")
        say.answer(str(written.path))
    return 0


def _asked(arch: str | None, line: str | None) -> Iterator[tuple[Line, Platform]]:
    """The lines and platforms that were asked for; without an arch every platform that a line can be had for.

    What cannot be pinned yet is an error where it was asked for by name, and told where all were.
    """
    from definitions import archs, lines
    from kit import say
    from kit.errors import UnpinnedError
    from kit.nouns import MACHINES, Platform

    chosen = archs.load(arch) if arch else None
    platforms = chosen.all_platforms() if chosen else tuple(Platform(arch=name) for name in sorted(MACHINES))
    named = (line,) if line else (chosen.line,) if chosen else lines.names()
    for each in map(lines.load, named):
        for platform in platforms:
            try:
                each.check_pinned(platform)
            except UnpinnedError as reason:
                if arch:
                    raise
                say.say(f"left out: {reason.message}")
                continue
            yield each, platform


def _listed(names: tuple[str, ...]) -> str:
    """A few names, or how many."""
    return " ".join(names) or "none" if len(names) <= 12 else str(len(names))
