"""Pins of bases are data that a command writes: the text of bases.toml before and after."""

from __future__ import annotations

import re

from kit.errors import InvalidFileError
from kit.nouns import check_digest


def pinned(text: str, name: str, digest: str, date: str, sources: tuple[str, ...]) -> str:
    """The text with digest, date and sources of base `name` replaced; all else stays to the byte. Pure."""
    check_digest(digest, f"the pin of base {name}")
    head = re.search(rf"^\[{re.escape(name)}\]\s*$", text, re.MULTILINE)
    if head is None:
        raise InvalidFileError(f"bases.toml has no table [{name}]")
    following = re.search(r"^\[", text[head.end() :], re.MULTILINE)
    end = head.end() + following.start() if following else len(text)
    table = text[head.end() : end]
    quoted = "[" + ", ".join(f'"{source}"' for source in sources) + "]"
    for key, value in (("digest", f'"{digest}"'), ("date", f'"{date}"'), ("sources", quoted)):
        table, count = re.subn(
            rf"^{key} *= *(\[[^\]]*\]|.*)$", f"{key} = {value}", table, count=1, flags=re.M
        )
        if not count:
            raise InvalidFileError(f"table [{name}] of bases.toml has no key {key!r}")
    return text[: head.end()] + table + text[end:]
