"""The text of a lock: a pip requirements file with one hash a line, a fixed order and no URLs.

Pure: what is locked to text, and text to what is locked.
"""

from __future__ import annotations

import re

from msgspec import Struct

from kit.errors import InvalidFileError


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


INPUT = "# input "
_PACKAGE = re.compile(r"(?P<name>[a-z0-9]+(?:-[a-z0-9]+)*)==(?P<version>[A-Za-z0-9.+!]+) \\")
_HASH = re.compile(r"    --hash=sha256:(?P<hex>[0-9a-f]{64})(?P<more> \\)?")


def text(lock: Lock, title: str, command: str) -> str:
    """The file's text. `title` says what it is for, `command` what writes it."""
    lines = [f"# {title}", f"# written by `{command}` from requirements.in and line.toml: edit those",
             f"{INPUT}{lock.input}"]  # fmt: skip
    for package in sorted(lock.packages):
        lines.append(f"{package.name}=={package.version} \\")
        lines += [f"    --hash=sha256:{each} \\" for each in sorted(package.sha256)]
        lines[-1] = lines[-1].removesuffix(" \\")
    return "\n".join(lines) + "\n"


def parse(raw: str, where: str) -> Lock:
    """The lock that a text says. InvalidFileError, with the line, for anything `text` would not have written:
    an unpinned or hashless package, a URL, an option, a conflict marker, another order.
    """
    found: str | None = None
    packages: list[Locked] = []
    hashes: list[str] | None = None  # of the package that is being read
    for number, line in enumerate(raw.splitlines(), 1):
        if hashes is None and line.startswith("#"):
            found = line.removeprefix(INPUT) if line.startswith(INPUT) else found
        elif hashes is None and (package := _PACKAGE.fullmatch(line)):
            hashes = []
        elif hashes is not None and (one := _HASH.fullmatch(line)):
            hashes.append(one["hex"])
            if not one["more"]:
                assert package is not None
                packages.append(Locked(package["name"], package["version"], tuple(hashes)))
                hashes = None
        else:
            raise InvalidFileError(f"not a lock, {where}, line {number}: found {line[:80]!r}, expected"
                                   " name==version or --hash=sha256:…", "make lock")  # fmt: skip
    if hashes is not None or found is None or packages != sorted(set(packages)):
        raise InvalidFileError(
            f"not a whole lock: {where} is cut off, has no input digest, or is not sorted", "make lock"
        )
    return Lock(found, tuple(packages))
