"""Lists of base images, one's own or a dataset's: text, JSON, JSON Lines, Parquet, told apart by content.

Everything streams: a dataset of gigabytes is read in the memory of its largest row. What is wrong is told
with the file and its line or row; what stands before a wrong line is yielded first, so that who reads must
throw that away (the journal does).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec
from msgspec import Struct

from image_cache.places.origin import Origin
from image_cache.prebuild import rows
from kit.errors import InvalidFileError
from kit.suggest import nearest, unknown

Kind = Literal["list", "r2e", "swe-gym", "swebench"]
KINDS: tuple[Kind, ...] = get_args(Kind)


class Entry(Struct, frozen=True):
    """A base image that is wanted. names: what else it is called: an instance of a dataset, and the base as
    the list spells it where that is not `base` itself."""

    base: str
    names: tuple[str, ...] = ()


class _Dataset(Struct, frozen=True):
    """field: what a row must have; image: how that becomes a reference; names: fields that name the row."""

    field: str
    image: Callable[[str], str]
    names: tuple[str, ...]
    strict: bool = False  # a list of one's own: another field is a slip of the pen


def _swe_gym(instance: str) -> str:
    return f"docker.io/xingyaoww/sweb.eval.x86_64.{instance.replace('__', '_s_')}:latest".lower()


def _swebench(instance: str) -> str:
    return f"docker.io/swebench/sweb.eval.x86_64.{instance.replace('__', '_1776_')}:latest".lower()


_DATASETS: dict[Kind, _Dataset] = {
    "list": _Dataset("image", str, ("name",), strict=True),
    "r2e": _Dataset("docker_image", str, ("instance_id",)),
    "swe-gym": _Dataset("instance_id", _swe_gym, ("instance_id",)),
    "swebench": _Dataset("instance_id", _swebench, ("instance_id",)),
}


def read(path: Path, kind: Kind) -> Iterator[Entry]:
    """What a file wants. `kind` names the dataset, or "list": lines `REFERENCE [NAME …]` with `#` comments,
    or rows with `image` and, if wanted, `name`.

    The same image may come more than once, with other names each time. InvalidFileError with the line or row.
    """
    dataset, form = _DATASETS[kind], rows.form(path)
    if form == "text":
        if kind != "list":
            raise InvalidFileError(
                f"{path} is neither JSON nor Parquet: a {kind} dataset is one of these",
                "give a plain list of references without an option",
            )
        yield from _of_text(path)
        return
    wanted = None if dataset.strict else tuple(dict.fromkeys((dataset.field, *dataset.names)))
    for where, row in rows.read(path, form, wanted):
        yield _of_row(dataset, row, where)


def _of_text(path: Path) -> Iterator[Entry]:
    for where, line in rows.lines(path):
        words = line.split()
        comment = next((at for at, word in enumerate(words) if word.startswith("#")), len(words))
        if words[:comment]:
            yield _entry(words[0], words[1:comment], where)


def _of_row(dataset: _Dataset, row: Any, where: str) -> Entry:
    if dataset.strict and isinstance(row, str):
        return _entry(row, (), where)
    if not isinstance(row, Mapping):
        raise InvalidFileError(f"{where}: found {_short(row)}, expected an object with {dataset.field!r}")
    known = (dataset.field, *dataset.names)
    if dataset.strict and dataset.field in row and (odd := [name for name in row if name not in known]):
        raise unknown("field", odd[0], known, where)
    row = _inner(row, dataset.field)
    value = row.get(dataset.field)
    if not isinstance(value, str) or not value:
        raise _lacking(dataset, row, where)
    names = [str(row[name]) for name in dataset.names if row.get(name)]
    return _entry(dataset.image(value), names, where, spelled=value if dataset.image is str else None)


def _inner(row: Mapping[str, Any], field: str) -> Mapping[str, Any]:
    """Trainers' files (SkyRL, verl) hold the dataset's row in a field of their own, as it is or as JSON."""
    inner = row.get("instance")
    if field in row or inner is None:
        return row
    if isinstance(inner, str | bytes):
        try:
            inner = msgspec.json.decode(inner)
        except (msgspec.DecodeError, UnicodeError):
            return row
    return inner if isinstance(inner, Mapping) else row


def _lacking(dataset: _Dataset, row: Mapping[str, Any], where: str) -> InvalidFileError:
    field = dataset.field
    if field in row:
        return InvalidFileError(f"{where}: {field!r} is {_short(row[field])}, expected a string")
    there = ", ".join(repr(str(name)) for name in list(row)[:12]) or "none"
    meant = nearest(field, map(str, row))
    hint = f"is {meant!r} what should be {field!r}?" if meant else None
    return InvalidFileError(f"{where} has no {field!r}: its fields are {there}", hint)


def _entry(text: str, names: Any, where: str, spelled: str | None = None) -> Entry:
    for each in (text, *names):
        try:
            each.encode()
        except UnicodeEncodeError as bad:  # half of a pair, which JSON can spell: `"\ud800"`
            raise InvalidFileError(f"{where}: {_short(each)} is no text: {bad.reason}") from bad
    try:
        base = str(Origin.parse(text))
    except InvalidFileError as bad:
        raise InvalidFileError(f"{where}: {bad.message}", bad.hint) from bad
    said = spelled or text
    also = (*names, *([said] if said != base else []))
    return Entry(base, tuple(dict.fromkeys(also)))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
