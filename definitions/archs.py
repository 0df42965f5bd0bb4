"""Archs: what an image is for, each one file of `archs/`. Adding one is adding a file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

from msgspec import Struct, structs

from definitions import bases, lines
from kit.decode import toml_file
from kit.errors import InvalidFileError, UnknownNameError
from kit.nouns import Platform
from kit.suggest import unknown

ARCHS = Path(str(files("definitions") / "archs"))


class Arch(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an image is made for.

    name                  the file's name
    summary               one line for people
    platforms             `linux/amd64`, `linux/arm64`; the first is built where the host's own is not here
    compute_capabilities  of its GPUs, as "9.0"; none: no GPU
    driver_floor          the lowest major version of the driver that knows the GPU; a line may ask for more
    line, base            what is taken unless something else is asked for
    quirks                one line each: what someone who uses the image should know
    """

    name: str = ""
    summary: str
    platforms: tuple[str, ...]
    compute_capabilities: tuple[str, ...] = ()
    driver_floor: str | None = None
    line: str
    base: str
    quirks: tuple[str, ...] = ()

    def all_platforms(self) -> tuple[Platform, ...]:
        """Its platforms as nouns."""
        return tuple(Platform.parse(text) for text in self.platforms)


def names(folder: Path = ARCHS) -> tuple[str, ...]:
    """All archs, sorted."""
    return tuple(sorted(path.stem for path in folder.glob("*.toml")))


def load(name: str, folder: Path = ARCHS) -> Arch:
    """An arch by name; UnknownNameError with a did-you-mean, InvalidFileError for a wrong file."""
    if name not in names(folder):
        raise unknown("arch", name, names(folder))
    path = folder / f"{name}.toml"
    return _checked(structs.replace(toml_file(path, Arch), name=name), str(path))


_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")
_CAPABILITY = re.compile(r"\d+\.\d")


def _checked(arch: Arch, where: str) -> Arch:
    try:
        arch.all_platforms()
    except UnknownNameError as bad:
        raise UnknownNameError(f"{where}: {bad.message}", bad.hint) from bad
    for kind, word, known in (("line", arch.line, lines.names()), ("base", arch.base, bases.names())):
        if word not in known:
            raise unknown(kind, word, known, where)
    for wrong in _complaints(arch):
        raise InvalidFileError(f"{where}: {wrong}")
    return arch


def _complaints(arch: Arch) -> Iterator[str]:
    if not _NAME.fullmatch(arch.name):
        yield f"a name is lower-case letters, digits and .-_ (it is part of tags), found {arch.name!r}"
    if not arch.platforms:
        yield "platforms is empty, expected at least one such as 'linux/amd64'"
    for capability in arch.compute_capabilities:
        if not _CAPABILITY.fullmatch(capability):
            yield f"a compute capability is written like '9.0', found {capability!r}"
    if bool(arch.compute_capabilities) != bool(arch.driver_floor):
        yield "compute_capabilities and driver_floor go together: a GPU has both"
    if arch.driver_floor and not arch.driver_floor.isdigit():
        yield f"driver_floor is a major version such as '580', found {arch.driver_floor!r}"
    if any("\n" in text for text in (arch.summary, *arch.quirks)):
        yield "summary and quirks are one line each, found a line break"
