"""Lists for people: columns on stdout, drawn on a terminal and plain text elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Sequence

from kit import say


def show(heads: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[str] = ()) -> None:
    """The rows below their heads; the columns named in `right` are numbers."""
    if sys.stdout.isatty():
        _draw(heads, rows, right)
        return
    for line in lines(heads, rows):
        say.answer(line)


def lines(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """The same as plain text."""
    whole = [heads, *rows]
    widths = [max(map(len, column)) for column in zip(*whole, strict=True)]
    for row in whole:
        yield "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()


def _draw(heads: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[str]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="dim", pad_edge=False)
    for head in heads:
        table.add_column(head, overflow="fold", justify="right" if head in right else "left")
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)
