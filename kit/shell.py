"""The one function that quotes a value for a shell, and what to print an argv with."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

from kit.errors import InvalidFileError


def quote(value: str) -> str:
    """A word of POSIX shell that stands for exactly `value`. NUL cannot be carried by any argv: refused."""
    if "\0" in value:
        raise InvalidFileError(f"a NUL byte cannot be passed to a program: found in {value[:40]!r}")
    return shlex.quote(value)


def line(argv: Iterable[str]) -> str:
    """An argv as one line that can be pasted into a shell."""
    return " ".join(quote(str(word)) for word in argv)
