"""An option of sbatch as a job says it: what is wrong with any, whichever part of the job it is for."""

from __future__ import annotations

import re
from collections.abc import Iterator

from kit.errors import InvalidFileError, SlipworksError, UnsupportedError
from slurm.options import refusal

NAME = re.compile(r"[a-z][a-z0-9-]+")


def wrong(key: str, value: str | bool) -> Iterator[tuple[type[SlipworksError], str]]:
    """Complaints, each with the kind of error that it is."""
    name = key.lstrip("-")
    if not NAME.fullmatch(name):
        yield InvalidFileError, f"found option {key!r}, expected the long name of one of sbatch's"
    if isinstance(value, str) and ("\n" in value or "\r" in value):
        yield InvalidFileError, f"{name} holds a line break, which no #SBATCH line can carry"
    if why := refusal(name, value):
        yield UnsupportedError, f"sbatch's {name} cannot be used here: {why}"
