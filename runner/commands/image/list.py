"""List the images in the store: by name, with the bytes of all their files, of which images may share some.

AGE is since it was made, USED since it was last asked for. What is neither used nor pinned goes with
`runner image gc`.
"""

from __future__ import annotations

import argparse
import sys

HELP = "list the images in the store"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--json", action="store_true", help="as JSON: sizes in bytes, times in UTC, whole digests"
    )


def run(args: argparse.Namespace) -> int:
    from msgspec import json

    from kit import say
    from runner import images, shelf

    found = shelf.rows(images.store())
    if args.json:
        say.answer(json.format(json.encode(found, enc_hook=str)).decode())
    elif sys.stdout.isatty():
        _drawn(list(shelf.table(found)))
    else:
        lines = [shelf.HEADS, *shelf.table(found)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        for line in lines:
            say.answer(
                "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()
            )
    return 0


def _drawn(lines: list[tuple[str, ...]]) -> None:
    from rich.console import Console
    from rich.table import Table

    from runner.shelf import HEADS

    table = Table(box=None, header_style="dim")
    for head in HEADS:
        table.add_column(
            head, overflow="fold", justify="right" if head in ("SIZE", "AGE", "USED") else "left"
        )
    for line in lines:
        table.add_row(*line)
    Console().print(table)
