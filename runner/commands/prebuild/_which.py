"""Options that name a prebuild, and how many do its work: alike in all verbs."""

from __future__ import annotations

import argparse
from pathlib import Path

from runner.commands import _numbers

TO = "registry and namespace of the baked images, or oci:FOLDER"


def which(parser: argparse.ArgumentParser) -> None:
    """Of verbs that go on with what was planned."""
    parser.add_argument("--to", metavar="TARGET", help="of which prebuild (default: the only one)")
    parser.add_argument("--platform", help="of which, where there are several: linux/amd64 or linux/arm64")
    journal(parser)


def journal(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--journal",
        type=Path,
        metavar="FOLDER",
        help="where it is kept (default: in the cache, by target and platform)",
    )


def pace(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--jobs", type=_numbers.count, default=16, metavar="N", help="so many at once (default: 16)"
    )
    parser.add_argument(
        "--every",
        type=float,
        default=10.0,
        metavar="SECONDS",
        help="without a terminal, tell how far it is so often (default: 10; 0: never)",
    )
