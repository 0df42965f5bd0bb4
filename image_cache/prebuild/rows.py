"""Rows of a file of JSON Lines, JSON or Parquet, one after the other, each with its place for messages."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from kit.errors import InvalidFileError, MissingToolError

Form = Literal["text", "json", "jsonl", "parquet"]
PIECE = 1 << 20
LONGEST = 256 << 20  # bytes of one row: more is no row of a dataset


def form(path: Path) -> Form:
    """What a file is, by its first bytes: names lie (`.json` is often JSON Lines)."""
    if path.is_dir():
        raise InvalidFileError(f"{path} is a folder: expected a file", f"ls {path}")
    try:
        with path.open("rb") as file:
            start = file.read(4096)
    except OSError as bad:
        raise InvalidFileError(f"cannot read {path}: {bad.strerror}") from bad
    if start.startswith(b"PAR1"):
        return "parquet"
    first = start.removeprefix(codecs.BOM_UTF8).lstrip()[:1]
    return "json" if first == b"[" else "jsonl" if first in (b"{", b'"') else "text"


def read(path: Path, form: Form, fields: Sequence[str] | None) -> Iterator[tuple[str, Any]]:
    """Place and row. fields: those that are looked at, of which Parquet then reads no other; None: all."""
    if form == "parquet":
        yield from _parquet(path, fields)
    elif form == "json":
        yield from _array(path)
    else:
        yield from _lines_of_json(path)


def lines(path: Path) -> Iterator[tuple[str, str]]:
    """Place and text of every line that is not blank."""
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            where = f"{path}, line {number}"
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            except UnicodeDecodeError as bad:
                raise InvalidFileError(f"{where} is no text: {bad.reason} at byte {bad.start}") from bad
            if line:
                yield where, line


def _lines_of_json(path: Path) -> Iterator[tuple[str, Any]]:
    for where, line in lines(path):
        try:
            yield where, msgspec.json.decode(line)
        except msgspec.DecodeError as bad:
            hint = "one object a line, or one array around all" if line in ("{", "[") else None
            raise InvalidFileError(f"{where} is not JSON: {bad}", hint) from bad


def _array(path: Path) -> Iterator[tuple[str, Any]]:
    """The elements of one array, which may be larger than memory: each is decoded when its end was read."""
    decoder = json.JSONDecoder()
    with path.open(encoding="utf-8-sig") as file:
        buffer = file.read(PIECE).lstrip()[1:]
        number = 0
        while True:
            buffer = buffer.lstrip()
            if number and buffer.startswith(","):
                buffer = buffer[1:].lstrip()
            elif buffer.startswith("]"):
                return
            number += 1
            row, buffer = _element(decoder, file, buffer, f"{path}, row {number}")
            yield f"{path}, row {number}", row


def _element(decoder: json.JSONDecoder, file: Any, buffer: str, where: str) -> tuple[Any, str]:
    while True:
        bad: json.JSONDecodeError | None = None
        try:
            row, end = decoder.raw_decode(buffer)
            rest = buffer[end:].lstrip()
            if rest[:1] in (",", "]"):
                return row, rest
            if rest:
                raise InvalidFileError(f"{where} is not followed by ',' or ']'")
        except json.JSONDecodeError as early:
            bad = early
        more = file.read(max(PIECE, len(buffer)))  # doubling: a large row is not decoded a thousand times
        if not more or len(buffer) > LONGEST:
            told = bad.msg if bad else "the file ends within the array"
            raise InvalidFileError(f"{where} is not JSON: {told}")
        buffer = (buffer + more).lstrip()


def _parquet(path: Path, fields: Sequence[str] | None) -> Iterator[tuple[str, Any]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as missing:
        raise MissingToolError(
            f"cannot read {path}: Parquet needs pyarrow, which is not installed here",
            "run it from a checkout (make kit), or write the dataset as JSON Lines",
        ) from missing
    try:
        with parquet.ParquetFile(path) as file:
            columns = _columns(file.schema_arrow.names, fields)
            number = 0
            for batch in file.iter_batches(batch_size=64, columns=columns, use_threads=False):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", row
    except (pyarrow.ArrowException, OSError) as bad:
        raise InvalidFileError(f"{path} is not Parquet that can be read: {bad}") from bad


def _columns(there: Sequence[str], fields: Sequence[str] | None) -> list[str] | None:
    """Those that are wanted; where none of the first, needed one is there, all, for the message to name."""
    if fields is None or not there:
        return None
    if fields[0] in there:
        return [name for name in fields if name in there]
    return ["instance"] if "instance" in there else None
