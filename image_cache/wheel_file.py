"""A wheel's file: what its name and its own metadata say, and whether that fits. Reads, never runs."""

from __future__ import annotations

import email
import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct
from packaging import tags
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from kit.errors import InvalidFileError, UnsupportedError
from kit.nouns import Platform

# All that zipfile raises for files of others: encrypted ones and unknown packings are RuntimeErrors.
_BROKEN = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, OSError, EOFError, RuntimeError, ValueError,
)  # fmt: skip


class Target(Struct, frozen=True, kw_only=True):
    """Where a wheel has to install. python: as "3.13". glibc: the newest that its tag may ask for, "2.35"."""

    platform: Platform
    python: str
    glibc: str

    def tags(self) -> frozenset[tags.Tag]:
        """Every tag that fits, as installers see it."""
        version = tuple(map(int, self.python.split(".")))
        short = self.python.replace(".", "")
        places = list(_platforms(self.platform.machine, int(self.glibc.partition(".")[2])))
        return frozenset(
            (
                *tags.cpython_tags(version, [f"cp{short}"], places),
                *tags.compatible_tags(version, f"cp{short}", places),
            )
        )


def _platforms(machine: str, minor: int) -> Iterator[str]:
    for each in range(minor, 4, -1):
        yield f"manylinux_2_{each}_{machine}"
        if old := {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}.get(each):
            yield f"{old}_{machine}"
    yield f"linux_{machine}"  # built here, and so for this base


def check(path: Path, name: str, version: str, target: Target) -> str:
    """The wheel's own version, which may have a local part (2.8.3+cu12torch2.8).

    InvalidFileError for what is no whole wheel, or another package or version than it should be;
    UnsupportedError where it is made for another Python or platform.
    """
    try:
        found, own, _, its_tags = parse_wheel_filename(path.name)
    except (InvalidWheelFilename, InvalidVersion) as bad:
        raise InvalidFileError(f"not the name of a wheel: {path.name} ({bad})") from bad
    _same(path.name, found, own, name, version)
    inside = _metadata(path)
    try:
        _same(f"{path.name}, in its METADATA", canonicalize_name(inside.get("Name", "")),
              Version(inside.get("Version", "")), name, version)  # fmt: skip
    except InvalidVersion as bad:
        raise InvalidFileError(f"{path.name}: its METADATA has no version") from bad
    if not its_tags & target.tags():
        raise UnsupportedError(
            f"{path.name} is made for {', '.join(sorted(map(str, its_tags)))}: expected Python"
            f" {target.python} on {target.platform} with glibc {target.glibc} at most"
        )
    return str(own)


def _same(where: str, name: str, version: Version, wanted: str, wanted_version: str) -> None:
    if name != canonicalize_name(wanted) or Version(version.public) != Version(wanted_version):
        raise InvalidFileError(f"{where} is {name} {version}: expected {wanted} {wanted_version}")


def _metadata(path: Path) -> dict[str, str]:
    try:
        with zipfile.ZipFile(path) as wheel:
            names = [each for each in wheel.namelist() if each.endswith(".dist-info/METADATA")]
            if len(names) != 1 or names[0].count("/") != 1:
                raise InvalidFileError(f"{path.name} is no wheel: it has {len(names)} METADATA files")
            said = email.message_from_bytes(wheel.read(names[0]))
    except _BROKEN as bad:
        raise InvalidFileError(f"{path.name} is no wheel: {bad}") from bad
    return {key: str(value) for key, value in said.items()}


def libraries(path: Path) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of every file of a wheel that begins as ELF files do. Checks the zip's own sums."""
    try:
        with zipfile.ZipFile(path) as wheel:
            for entry in wheel.infolist():
                with wheel.open(entry) as file:
                    head = file.read(4)
                    raw = head + file.read()  # to the end: only then is the sum compared
                if head == b"\x7fELF":
                    yield entry.filename, raw
    except _BROKEN as bad:
        raise InvalidFileError(f"{path.name} is no whole wheel: {bad}") from bad
