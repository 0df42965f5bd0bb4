"""Strict reading of TOML (and anything already parsed) into nouns.

An unknown key is an error with a did-you-mean, a wrong type says what was found where.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from kit.errors import InvalidFileError, UnknownNameError
from kit.suggest import unknown

T = TypeVar("T")


def toml(text: str, kind: type[T], where: str) -> T:
    """A TOML text as a `kind` (a Struct with forbid_unknown_fields). `where` names the file in errors."""
    return convert(_table(text, where), kind, where)


def toml_file(path: Path, kind: type[T]) -> T:
    """A TOML file as a `kind`."""
    return toml(_read(path), kind, str(path))


def toml_table(path: Path, kind: type[T]) -> dict[str, Any]:
    """The keys that a TOML file really gives, after the whole was checked against `kind`."""
    return table(_read(path), kind, str(path))


def table(text: str, kind: type[T], where: str) -> dict[str, Any]:
    """As `toml_table`, of a text; `where` names its file in errors."""
    found = _table(text, where)
    convert(found, kind, where)
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as bad:
        raise InvalidFileError(f"cannot read {path}: {bad}") from bad


def _table(text: str, where: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as bad:
        raise InvalidFileError(f"{where} is not TOML: {bad}") from bad


def convert(data: Any, kind: type[T], where: str, locate: Callable[[str], str] | None = None) -> T:
    """Parsed data as a `kind`; every complaint names `where` and the place inside it.

    `locate` turns a dotted path such as `ray.args[0]` into a better `where`, with the line's number, say.
    """
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as bad:
        raise _explained(str(bad), kind, where, locate) from bad


_UNKNOWN_FIELD = re.compile(r"Object contains unknown field `(?P<key>[^`]*)`(?: - at `\$(?P<at>[^`]*)`)?")


_NO_CHOICE = re.compile(r"Invalid enum value '(?P<word>[^']*)'")
_PLACE = re.compile(r" - at `(?:key` in `)?\$(?P<at>[^`]*)`")


def _explained(
    message: str, kind: Any, where: str, locate: Callable[[str], str] | None
) -> InvalidFileError | UnknownNameError:
    found = _UNKNOWN_FIELD.search(message)
    if not found:
        place = _PLACE.search(message)
        at = place["at"].lstrip(".") if place else ""
        where = locate(at) if locate else where
        if (choice := _NO_CHOICE.match(message)) and (choices := _choices_at(kind, at)):
            return unknown(at.rpartition(".")[2], choice["word"], choices, where)
        from kit import expected

        said, hint = expected.told(message, at, _type_at(kind, at, whole=True))
        return InvalidFileError(f"{where}: {said}", hint)
    at = (found["at"] or "").lstrip(".")
    if locate:
        where = locate(".".join(filter(None, (at, found["key"]))))
        return unknown("key", found["key"], _fields_at(kind, at), where)
    return unknown("key", found["key"], _fields_at(kind, at), f"{where}, table [{at}]" if at else where)


def _fields_at(kind: Any, at: str) -> list[str]:
    """The field names that `kind` allows at a dotted path such as `base.debian` or `layers[0]`."""
    return [field.encode_name for field in getattr(_type_at(kind, at), "fields", ())]


def _choices_at(kind: Any, at: str) -> list[str]:
    """The words that a Literal at a dotted path allows."""
    return [str(value) for value in getattr(_type_at(kind, at), "values", ())]


def _type_at(kind: Any, at: str, whole: bool = False) -> Any:
    """whole: with all members of a union, as it was written."""
    info = msgspec.inspect.type_info(kind)
    for name in [part for part in re.split(r"\.|(?=\[)", at.replace("[...]", "[*]")) if part]:
        info = _inside(info, name)
    return info if whole else _unwrapped(info)


def _inside(info: Any, name: str) -> Any:
    info = _unwrapped(info)
    for field in getattr(info, "fields", ()):
        if field.encode_name == name:
            return field.type
    return getattr(info, "value_type", getattr(info, "item_type", info))


def _unwrapped(info: Any) -> Any:
    """The member of a union such as `str | Struct` or `dict | None` that has parts; else the first."""
    members = [each for each in getattr(info, "types", ()) if not isinstance(each, msgspec.inspect.NoneType)]
    parted = [each for each in members if hasattr(each, "fields")] or [
        each for each in members if hasattr(each, "value_type") or hasattr(each, "item_type")
    ]
    return next(iter(parted or members), info)
