"""Write the committed Containerfile and Apptainer definition of every arch."""

from __future__ import annotations

import argparse

HELP = "write the committed Containerfile and Apptainer definition of every arch"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail if a committed file differs"
    )


def run(args: argparse.Namespace) -> int:
    from runner import images

    images.render(check=args.check)
    return 0
