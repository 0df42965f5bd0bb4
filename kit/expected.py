"""What msgspec says of a wrong value, in words of someone who writes a file: text, list, mapping."""

from __future__ import annotations

import re
from typing import Any

from msgspec import inspect

FOUND = {
    "str": "text", "int": "a whole number", "float": "a number with a fraction", "bool": "true or false",
    "array": "a list", "object": "a mapping", "null": "nothing", "date": "a date", "time": "a time",
    "datetime": "a date with a time",
}  # fmt: skip
"""msgspec's word for what it found -> ours."""

_WRONG = re.compile(r"Expected `(?P<expected>[^`]*)`, got `(?P<found>[^`]*)`")
_MISSING = re.compile(r"Object missing required field `(?P<key>[^`]*)`")
_KEY = re.compile(r" - at `key` in `\$")
_SIMPLE = (
    (inspect.BoolType, "true or false"),
    (inspect.StrType, "text"),
    (inspect.IntType, "a whole number"),
    (inspect.FloatType, "a number"),
)
MOST = 8  # keys that are named
_LISTS = (inspect.ListType, inspect.VarTupleType, inspect.TupleType)


def told(message: str, at: str, kind: Any) -> tuple[str, str | None]:
    """A complaint of msgspec's in plain words, and a hint. at: its place, as in `ray.args[0]`; "": the whole.
    kind: what msgspec's inspection says of the type there."""
    if missing := _MISSING.match(message):
        return f"{at + ' has ' if at else ''}no {missing['key']}, which must be given", None
    if not (wrong := _WRONG.match(message)):
        return f"{message[0].lower()}{message[1:]}", None
    found = FOUND.get(wrong["found"], wrong["found"])
    place = at.replace("[...]", "")
    if _KEY.search(message):
        return f"found {found} as a name in {place}, expected text (in quotes)", None
    inner = f" in {place}" if at.endswith("[...]") else f" for {place}" if place else ""
    return f"found {found}{inner}, expected {expected(kind)}", _hint(wrong["found"], kind)


def expected(kind: Any) -> str:
    """A type of msgspec's inspection in words; a choice of several is joined by `or`."""
    members = [each for each in getattr(kind, "types", (kind,)) if not isinstance(each, inspect.NoneType)]
    words = sorted(map(_one, members), key=lambda word: word.startswith("a "))  # the simple ones first
    return ", or ".join(dict.fromkeys(words))


def _one(kind: Any) -> str:
    for simple, word in _SIMPLE:
        if isinstance(kind, simple):
            return word
    if isinstance(kind, inspect.StructType):
        names = [field.encode_name for field in kind.fields]
        return f"a mapping with {', '.join(names[:MOST])}{' …' if len(names) > MOST else ''}"
    if isinstance(kind, inspect.LiteralType):
        return f"one of {', '.join(map(str, kind.values))}"
    return "a list" if isinstance(kind, _LISTS) else "a mapping"


def _hint(found: str, kind: Any) -> str | None:
    """One thing where a list of them is wanted is the commonest slip."""
    listed = any(isinstance(each, _LISTS) for each in getattr(kind, "types", (kind,)))
    return (
        "a list has brackets, even of one: [A], [A, B]" if listed and found not in ("array", "null") else None
    )
