"""Numbers of a job that have a least value."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

Least = tuple[str, float | None, float, str]
"""Its place in the job, the number if one is said, the least that it may be, and what it counts."""


def too_small(numbers: Iterable[Least]) -> Iterator[tuple[str, str]]:
    """Place and complaint of each that is smaller, or no number at all (nan)."""
    for at, number, smallest, what in numbers:
        if number is not None and not number >= smallest:
            yield at, f"found {_text(number)} {what}, expected {_text(smallest)} or more"


def _text(number: float) -> str:
    """A count in all its digits."""
    return str(number) if isinstance(number, int) else f"{number:g}"
