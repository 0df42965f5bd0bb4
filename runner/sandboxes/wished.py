"""What a client may say of a sandbox, so that nothing of it becomes an option of an engine or a path of the
host. One rule for all engines. Pure."""

from __future__ import annotations

import posixpath
import re

from kit.errors import UsageError
from runner.sandboxes.nouns import Wish

_IN_A_PART = r"/:\x00-\x1f\x7f-\x9f"
FOLDER = rf"^(?:/(?:\.?|\.{{0,2}}[^.{_IN_A_PART}][^{_IN_A_PART}]*|\.{{3}}[^{_IN_A_PART}]*))*$"
"""Of a folder inside: absolute, or empty; no `..`, no colon, no control character. Engines read `A:B` as a
folder of the host and where to put it. (Without look-ahead, which not every reader of a schema knows.)"""
VALUE = r"^[^\x00\r\n]*$"
"""Of a variable's value: an env file of podman or docker ends it at a line break."""
HOME = "HOME"
"""A variable that is a folder, which apptainer is told of as such."""
_FOLDER, _VALUE = re.compile(FOLDER), re.compile(VALUE)


def normal(folder: str) -> str:
    """As a path from the root of the container, above which nothing leads."""
    return posixpath.normpath(f"/{folder.lstrip('/')}")


def folder(said: str, what: str = "working_dir") -> str:
    """A client's folder, as engines are told of it. UsageError for what is none."""
    if not said or not _FOLDER.fullmatch(said):
        raise UsageError(f"{what}: {NO_FOLDER}: found {said[:200]!r}")
    return normal(said)


NO_FOLDER = "expected an absolute path in the sandbox, without `..`, colons and control characters"


def wrong(env: dict[str, str]) -> str:
    """What no engine is told of these variables; empty: nothing. No value is in it."""
    for name, value in env.items():
        if not _VALUE.fullmatch(value):
            return f"{name}: a line break (or NUL) in a variable, which not every engine can carry"
    if not _FOLDER.fullmatch(env.get(HOME, "")):
        return f"{HOME}: {NO_FOLDER}"
    return ""


def demand(wish: Wish) -> None:
    """UsageError for a wish that no engine is told of."""
    if not wish.image or wish.image.startswith("-"):
        raise UsageError(f"expected the name of an image: found {wish.image[:200]!r}")
    if wish.workdir:
        folder(wish.workdir)
    if found := wrong(wish.env):
        raise UsageError(found)
