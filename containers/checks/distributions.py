"""The Python packages of the stack: which are there, in which version, and what they say they installed."""

from __future__ import annotations

import re
from collections.abc import Iterator

from msgspec import Struct

from containers.findings import Expected
from containers.image_tree import ImageTree
from kit.errors import InvalidFileError

STACK = "/opt/stack"
LOCK = f"{STACK}/stack.lock"
_FIELD = re.compile(r"^(Name|Version): *(\S+)", re.MULTILINE)
_LOCKED = re.compile(r"^([a-z0-9-]+)==(\S+)", re.MULTILINE)


class Distribution(Struct, frozen=True):
    """An installed package: normalized name, and the folder of its metadata."""

    name: str
    version: str
    folder: str


def site(expected: Expected) -> str:
    """The folder of the stack's packages."""
    return f"{STACK}/lib/python{expected.python}/site-packages"


def installed(tree: ImageTree, expected: Expected) -> list[Distribution]:
    """By name."""
    found = []
    for path in tree.matching(f"{site(expected)}/*.dist-info/METADATA"):
        folder = path.rpartition("/")[0]
        if folder.count("/") > site(expected).count("/") + 1:
            continue  # a package's own copy of others (setuptools/_vendor)
        fields: dict[str, str] = {}
        for name, value in _FIELD.findall((tree.text(path) or "").partition("\n\n")[0]):
            fields.setdefault(name, value)
        found.append(Distribution(normal(fields.get("Name", "")), fields.get("Version", ""), folder))
    return sorted(found, key=lambda each: each.name)


def locked(tree: ImageTree) -> dict[str, str] | None:
    """Name -> version, by the lock that lies in the image; None where there is none."""
    text = tree.text(LOCK)
    return dict(_LOCKED.findall(text)) if text is not None else None


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def recorded(tree: ImageTree, one: Distribution) -> Iterator[tuple[str, str, str]]:
    """Path in the image, hash ("sha256=…" or empty) and size (or empty) of all that a RECORD names.
    InvalidFileError where it cannot be read as a table."""
    import csv

    text = tree.text(f"{one.folder}/RECORD") or ""
    try:
        for row in csv.reader(text.splitlines()):
            if len(row) == 3:
                yield _joined(one.folder.rpartition("/")[0], row[0]), row[1], row[2]
    except csv.Error as bad:
        raise InvalidFileError(f"has a RECORD that cannot be read: {bad}") from bad


def _joined(folder: str, name: str) -> str:
    if ".." not in name and "./" not in name and not name.startswith("/"):
        return f"{folder}/{name}"  # nearly all of a hundred thousand
    parts = [] if name.startswith("/") else folder.split("/")[1:]
    for part in name.split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part not in ("", "."):
            parts.append(part)
    return "/" + "/".join(parts)
