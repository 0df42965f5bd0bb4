"""Failures that are known by what they leave in a log: known.toml, and where in a text they are. Pure."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator
from importlib import resources

from msgspec import Struct

from kit import decode

FILE = "runner/why/known.toml"
ESCAPE = re.compile(rb"\x1b(?:\[[0-9;:?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
"""A terminal's: colours, parts of a line that are cleared, titles."""
RAYS = re.compile(r"^\((?:[\w.:<>\[\]-]+ )*(?:pid|ip)=[^)]*\)\s?|^\(raylet[^)]*\)\s?|^\(autoscaler[^)]*\)\s?")
"""What Ray puts in front of a worker's line."""
LONGEST = 240  # characters of a line that is quoted


class Failure(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One that is known; its fields are explained in known.toml."""

    name: str
    words: tuple[str, ...]
    cause: str
    fix: str
    source: str
    line: str | None = None
    hides: tuple[str, ...] = ()


class Place(Struct, frozen=True):
    """Where a failure shows first in a text: the line's number, from 1, the line as it is quoted, and in how
    many lines it shows."""

    line: int
    text: str
    times: int


class _File(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    failure: tuple[Failure, ...]


@functools.cache
def known() -> tuple[Failure, ...]:
    """All of the file, in its order."""
    text = (resources.files("runner") / "why" / "known.toml").read_text()
    return decode.toml(text, _File, FILE).failure


def seen(raw: bytes) -> dict[str, Place]:
    """Each known failure that shows in a log -> where. Any bytes are a log."""
    text = ESCAPE.sub(b"", raw).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    found: dict[str, Place] = {}
    for each in known():
        lines = list(_lines(text, each))
        if lines:
            begin, line = min(lines)
            times = len({at for at, _ in lines})
            found[each.name] = Place(text.count(b"\n", 0, begin) + 1, _quoted(line), times)
    return found


def told(names: Iterable[str]) -> list[Failure]:
    """The failures of these names, the most telling first, without those that only follow from another."""
    mine = set(names)
    follow = {other for each in known() if each.name in mine for other in each.hides}
    return [each for each in known() if each.name in mine - follow]


def _lines(text: bytes, failure: Failure) -> Iterator[tuple[int, str]]:
    """Each line that shows the failure, and where it begins. The words are found first: they cost little."""
    demanded = re.compile(failure.line) if failure.line else None
    for words in failure.words:
        wanted, at = words.encode(), text.find(words.encode())
        while at >= 0:
            begin = text.rfind(b"\n", 0, at) + 1
            end = text.find(b"\n", at)
            end = len(text) if end < 0 else end
            line = text[begin:end].decode("utf-8", "replace")
            if demanded is None or demanded.search(line):
                yield begin, line
            at = text.find(wanted, end)


def _quoted(line: str) -> str:
    line = "".join(char if char.isprintable() else " " for char in RAYS.sub("", line)).strip()
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"
