"""JSON that carries any value a program can be given: bytes that are no text too, as `os.fsdecode` has them.

The file is plain ASCII; such a byte is written as half of a character, which stricter readers refuse.
"""

from __future__ import annotations

import json
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")


def encode(data: Any) -> bytes:
    """Structs, lists, mappings and plain values, for people to read."""
    return json.dumps(msgspec.to_builtins(data), indent=2).encode("ascii")


def decode(raw: bytes, kind: type[T]) -> T:
    """What `encode` wrote, as a `kind`; ValueError (msgspec has kinds of it) for anything else."""
    return msgspec.convert(json.loads(raw), kind)
