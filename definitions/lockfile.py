"""The text of a lock: a pip requirements file with one hash a line, a fixed order and no URLs.

Pure: what is locked to text, and text to what is locked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from msgspec import Struct

from kit.errors import InvalidFileError
from kit.nouns import digest


class Locked(Struct, frozen=True, order=True):
    """One package. `sha256` holds, sorted, 64 hex digits for each file that may be installed for it."""

    name: str
    version: str
    sha256: tuple[str, ...]


class Lock(Struct, frozen=True):
    """A whole lock. `input` is the digest of all that the resolver was given."""

    input: str
    packages: tuple[Locked, ...]

    def version(self, name: str) -> str | None:
        """The locked version of a package by its normalized name; None when it is not in the lock."""
        return next((each.version for each in self.packages if each.name == name), None)


INPUT, CONTENT = "# input ", "# content "
_PACKAGE = re.compile(r"(?P<name>[a-z0-9]+(?:-[a-z0-9]+)*)==(?P<version>[A-Za-z0-9.+!]+) \\")
_HASH = re.compile(r"    --hash=sha256:(?P<hex>[0-9a-f]{64})(?P<more> \\)?")


def text(lock: Lock, title: str, command: str) -> str:
    """The file's text. `title` says what it is for, `command` what writes it."""
    body = requirements(lock.packages)
    head = (f"# {title}", f"# written by `{command}` from requirements.in and line.toml: edit those",
            f"{INPUT}{lock.input}", f"{CONTENT}{digest(body.encode())}")  # fmt: skip
    return "".join(f"{line}\n" for line in head) + body


def requirements(packages: Iterable[Locked]) -> str:
    """The lines that an installer reads, of these packages alone."""
    lines = []
    for package in sorted(packages):
        lines.append(f"{package.name}=={package.version} \\")
        lines += [f"    --hash=sha256:{each} \\" for each in sorted(package.sha256)]
        lines[-1] = lines[-1].removesuffix(" \\")
    return "".join(f"{line}\n" for line in lines)


def parse(raw: str, where: str) -> Lock:
    """The lock that a text says. InvalidFileError, with the line where there is one, for anything that `text`
    would not have written: an unpinned or hashless package, a URL, an option, a merge gone wrong, a lost end.
    """
    lines = raw.splitlines()
    given = next((line.removeprefix(INPUT) for line in lines[:4] if line.startswith(INPUT)), None)
    content = next((line.removeprefix(CONTENT) for line in lines[:4] if line.startswith(CONTENT)), None)
    packages = _packages(lines[4:], where)
    body = "".join(raw.splitlines(keepends=True)[4:])
    if given is None or content != digest(body.encode()):
        raise InvalidFileError(
            f"not a whole lock: {where} was edited, merged or cut off since it was written", "make lock"
        )
    return Lock(given, tuple(packages))


def _packages(body: list[str], where: str) -> list[Locked]:
    packages: list[Locked] = []
    name, version = "", ""  # of the package that is being read
    hashes: list[str] = []
    for number, line in enumerate(body, 5):
        if not name and (package := _PACKAGE.fullmatch(line)):
            name, version, hashes = package["name"], package["version"], []
        elif name and (one := _HASH.fullmatch(line)):
            hashes.append(one["hex"])
            if not one["more"]:
                packages.append(Locked(name, version, tuple(hashes)))
                name = ""
        else:
            raise InvalidFileError(f"not a lock: {where}, line {number}: found {line[:80]!r}, expected"
                                   " name==version or --hash=sha256:…", "make lock")  # fmt: skip
    return packages
