"""How a stack is split into layers: data in groups.toml, applied to a lock."""

from __future__ import annotations

import fnmatch
from importlib.resources import files
from pathlib import Path

from msgspec import Struct

from definitions import lockfile
from definitions.lockfile import Locked
from kit.decode import toml_file
from kit.nouns import Group, Wheel

FILE = Path(str(files("definitions") / "groups.toml"))
REST, EXTENSIONS, ENVIRONMENT = "rest", "extensions", "environment"


class _Pattern(Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    packages: tuple[str, ...]


class _File(Struct, frozen=True, forbid_unknown_fields=True):
    group: tuple[_Pattern, ...]


def split(lock: str, where: str, wheels: tuple[Wheel, ...] = (), file: Path = FILE) -> tuple[Group, ...]:
    """The groups of a stack, lowest first; those without a package are left out.

    Each requirement of the lock is in exactly one group, with its hashes as they stand there. The last group
    is the environment, without a package: all that says which ones there are.
    """
    patterns = toml_file(file, _File).group
    parts: dict[str, list[Locked]] = {name: [] for name in (*(each.name for each in patterns), REST)}
    for package in lockfile.parse(lock, where).packages:
        fitting = (
            each.name for each in patterns if any(fnmatch.fnmatchcase(package.name, p) for p in each.packages)
        )
        parts[next(fitting, REST)].append(package)
    groups = [
        Group(name=name, lock=lockfile.requirements(packages)) for name, packages in parts.items() if packages
    ]
    extensions = [Group(name=EXTENSIONS, lock="", wheels=wheels)] if wheels else []
    return (*groups, *extensions, Group(name=ENVIRONMENT, lock="", whole=lock))
