"""What is told to people in columns or in sections: on stdout, drawn on a terminal and plain elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator, Sequence

from kit import say

Rows = list[tuple[str, str]]
Section = tuple[str, Rows]
"""A title, and names with their values below it."""


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


def show_sections(
    found: Sequence[Section], style: Callable[[str, str], str] = lambda title, value: ""
) -> None:
    """Titles with names and values. style: of a value on a terminal, by its section's title and itself."""
    if sys.stdout.isatty():
        _draw_sections(found, style)
        return
    for line in section_lines(found):
        say.answer(line)


def section_lines(found: Sequence[Section]) -> Iterator[str]:
    """The same as plain text."""
    for title, rows in found:
        width = max(len(name) for name, _ in rows)
        yield title
        for name, value in rows:
            yield f"  {name:<{width}}  {value}" if width else f"  {value}"


def _draw_sections(found: Sequence[Section], style: Callable[[str, str], str]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    for title, rows in found:
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in rows:
            table.add_row(f"  {name}", Text(value, style(title, value)))
        console.print(Text(title, "bold"), table, sep="\n")
