"""Whether a program wrote what is expected: by lines, blanks at their ends aside, numbers by their value."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation


def same(found: str, expected: str) -> bool:
    ours, theirs = _lines(found), _lines(expected)
    return len(ours) == len(theirs) and all(map(_alike, ours, theirs))


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.strip().split("\n")]


def _alike(one: str, other: str) -> bool:
    return one == other or (one.isascii() and other.isascii() and _equal(one.split(), other.split()))


def _equal(ours: list[str], theirs: list[str]) -> bool:
    try:
        return len(ours) == len(theirs) and all(
            Decimal(one) == Decimal(other) for one, other in zip(ours, theirs, strict=True)
        )
    except InvalidOperation:
        return False
