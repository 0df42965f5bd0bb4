"""Slurm's way of writing how long something may take."""

from __future__ import annotations

import re

from kit.errors import InvalidFileError

FORMS = '"30" (minutes), "30:00", "12:00:00", "1-12", "1-12:00" or "1-00:00:00"'
ENDLESS = ("infinite", "unlimited")

_WRITTEN = (
    (re.compile(r"(\d+)-(\d+)(?::(\d+))?(?::(\d+))?", re.ASCII), (86400, 3600, 60, 1)),
    (re.compile(r"(\d+):(\d+):(\d+)", re.ASCII), (3600, 60, 1)),
    (re.compile(r"(\d+)(?::(\d+))?", re.ASCII), (60, 1)),
)


def seconds(text: str, where: str = "time") -> float:
    """How long, in seconds; infinity for a limit that is none. InvalidFileError names `where`."""
    if text.lower() in ENDLESS:
        return float("inf")
    for form, factors in _WRITTEN:
        if found := form.fullmatch(text):
            total = sum(int(part or 0) * factor for part, factor in zip(found.groups(), factors, strict=True))
            if total:
                return total
    raise InvalidFileError(f"{where}: found {text!r}, expected {FORMS}")
