"""The requests of the code server: open-instruct's forms, and what is wrong with one."""

from __future__ import annotations

import base64
import binascii
import io
import json
import math
import pickle
import zlib
from typing import Any

from msgspec import Struct

LARGEST = 256 << 20  # bytes of tests once they are unpacked
BROKEN = (binascii.Error, zlib.error, ValueError, EOFError, pickle.UnpicklingError, IndexError, KeyError,
          TypeError, AttributeError, OverflowError, MemoryError, RecursionError)  # fmt: skip
"""What the unpacking of any bytes may end with."""


class Refused(Exception):
    """A request that cannot be answered: its HTTP status, and why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status, self.why = status, why


class Request(Struct, frozen=True):
    """A program and its tests.

    tests     what is run after the program, or given to it on standard input.
    outputs   what is expected of it then; None: the tests are statements.
    seconds   for one test.
    """

    program: str
    tests: tuple[str, ...]
    outputs: tuple[str, ...] | None
    seconds: float


def read(raw: bytes, stdio: bool) -> Request:
    """The request in a body; Refused for one that is none."""
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError) as bad:
        raise Refused(400, "the body is no JSON") from bad
    if not isinstance(data, dict):
        raise Refused(422, "found no object, expected {program, tests, max_execution_time}")
    program, seconds = data.get("program"), data.get("max_execution_time", 1.0)
    if not isinstance(program, str):
        raise Refused(422, "program: expected text")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise Refused(422, "max_execution_time: expected a number")
    if not (math.isfinite(seconds) and seconds > 0):
        raise Refused(422, "max_execution_time: expected more than 0 seconds")
    if "tests" not in data:
        raise Refused(422, "tests: there are none")
    tests = decoded(data["tests"])
    if stdio:
        given, expected = zip(*map(_pair, tests), strict=True) if tests else ((), ())
        return Request(program, given, expected, seconds)
    if not all(isinstance(each, str) for each in tests):
        raise Refused(422, "tests: expected statements, each a text")
    return Request(program, tuple(tests), None, seconds)


def decoded(tests: Any) -> list[Any]:
    """A list; its JSON; or, as data sets keep it, pickle, zlib and base64 around a list or its JSON."""
    if tests is None or tests == "":
        return []
    if isinstance(tests, str):
        try:
            tests = json.loads(tests)
        except ValueError:
            tests = _unpacked(tests)
    if not isinstance(tests, list):
        raise Refused(422, "tests: expected a list, or one that is packed")
    return tests


def _unpacked(text: str) -> Any:
    try:
        packed = zlib.decompressobj()
        raw = packed.decompress(base64.b64decode(text, validate=True), LARGEST)
        if packed.unconsumed_tail:
            raise Refused(413, f"tests: more than {LARGEST >> 20} MB unpacked")
        found = _Plain(io.BytesIO(raw)).load()
        return json.loads(found) if isinstance(found, str | bytes) else found
    except BROKEN as bad:
        raise Refused(422, "tests: neither a list, nor JSON, nor pickled, zlib-packed and in base64") from bad


class _Plain(pickle.Unpickler):
    """Texts, numbers, lists and the like; nothing that would run anything."""

    def find_class(self, module: str, name: str) -> Any:
        raise Refused(422, f"tests: the pickle wants {module}.{name}: plain data alone is read")


def _pair(test: Any) -> tuple[str, str]:
    if not (isinstance(test, dict) and "input" in test and "output" in test):
        raise Refused(422, "tests: expected {input, output} each")
    return _text(test["input"]), _text(test["output"])


def _text(value: Any) -> str:
    """Lines, where it is a list of them."""
    if isinstance(value, list):
        return "\n".join(map(str, value))
    return value if isinstance(value, str) else json.dumps(value)
