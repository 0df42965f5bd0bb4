"""Lines: the stacks of packages that go into images, each a folder of `stacks/` with its locks.

A lock is for one platform and one Python: every requirement with its exact version and the sha256 of each
file that may be installed for it, no URLs. It is complete, so it is installed without following dependencies
(`--no-deps`): the line's extensions are required by name by others, and are left out all the same.
"""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

from msgspec import Struct, json, structs

from definitions import lockfile
from kit.decode import toml_file
from kit.errors import DriftError, InvalidFileError, UnpinnedError, UnsupportedError
from kit.nouns import MACHINES, Platform, digest
from kit.suggest import unknown

STACKS = Path(str(files("definitions") / "stacks"))


class Pin(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file that comes from the additional index, and so is not in the resolver's answer.

    sha256   64 hex digits; empty where no two independent sources for it were found: then there is no lock
    sources  where public locks name this file with this hash
    """

    name: str
    version: str
    file: str
    sha256: str = ""
    sources: tuple[str, ...] = ()


class Difference(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one platform has beside the line's own input.

    requirements  named there only
    excludes      left out there only
    pins          the files that come from the additional index (settings.torch_index); none: not needed
    """

    requirements: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()
    pins: tuple[Pin, ...] = ()


class Line(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A stack: what it is for, what it needs of a host, and how its input is resolved.

    pythons        the versions it has locks for
    cuda           the CUDA that its torch was built with; None: runs without a GPU
    driver_floor   the lowest major version of NVIDIA's driver that runs it
    glibc          the oldest glibc that its wheels run on
    source         packages that exist only as sources, pure Python: the only ones built at installation
    extensions     packages without wheels, left out of the lock and named in the image's record
    exclude_newer  files that were uploaded after this date do not exist for the resolver
    exclude_newer_package  the same for single packages, by name
    constraints, overrides, excludes  as the resolver knows them
    platforms      by OCI's word for the architecture: what differs there
    """

    name: str = ""
    summary: str
    pythons: tuple[str, ...]
    cuda: str | None = None
    driver_floor: str | None = None
    glibc: str
    source: tuple[str, ...] = ()
    extensions: tuple[str, ...] = ()
    exclude_newer: str
    exclude_newer_package: dict[str, str] = {}
    constraints: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()
    platforms: dict[str, Difference] = {}

    @property
    def folder(self) -> Path:
        return STACKS / self.name

    def difference(self, platform: Platform) -> Difference:
        """What this platform has beside the rest; an empty one where nothing differs."""
        return self.platforms.get(platform.arch, Difference())

    def needs_torch_index(self, platform: Platform) -> bool:
        """Whether some of its files come from the additional wheel index, which is a user's setting."""
        return bool(self.difference(platform).pins)

    def wheel_platform(self, platform: Platform) -> str:
        """The platform in uv's words (--python-platform): `x86_64-manylinux_2_35`."""
        return f"{platform.machine}-manylinux_{self.glibc.replace('.', '_')}"

    def lock_path(self, platform: Platform, python: str) -> Path:
        """Where the lock lies, whether or not it exists. UnsupportedError for a Python it is not made for."""
        if python not in self.pythons:
            raise UnsupportedError(
                f"line {self.name} cannot be had for Python {python}: its packages are made for"
                f" Python {' and '.join(self.pythons)}",
                f"choose a base that holds Python {self.pythons[0]}",
            )
        return self.folder / f"cp{python.replace('.', '')}-{platform.arch}.lock"

    def requirements(self) -> tuple[str, ...]:
        """The lines of requirements.in, without comments."""
        path = self.folder / "requirements.in"
        try:
            lines = [line.partition("#")[0].strip() for line in path.read_text().splitlines()]
        except (OSError, UnicodeDecodeError) as bad:
            raise InvalidFileError(f"cannot read {path}: {bad}") from bad
        return tuple(line for line in lines if line)

    def input(self, platform: Platform, python: str) -> str:
        """The digest of all that decides what the lock says: the requirements and how they are resolved."""
        difference = self.difference(platform)
        given = (
            (python, self.wheel_platform(platform), self.exclude_newer, self.exclude_newer_package),
            (self.requirements(), difference.requirements, self.constraints, self.overrides),
            (self.excludes, difference.excludes, self.extensions, self.source),
            [structs.asdict(pin) for pin in difference.pins],
        )
        return digest(json.encode(given, order="sorted"))

    def lock(self, platform: Platform, python: str) -> Path:
        """The lock for a platform and a Python, made from the input as it is now.

        UnsupportedError when the line is not made for that Python, UnpinnedError when a hash or the whole
        file is not recorded yet, DriftError when the input changed since it was written.
        """
        path = self.lock_path(platform, python)
        self.check_pinned(platform)
        command = f"make lock LINE={self.name}"
        if not path.exists():
            raise UnpinnedError(f"line {self.name} has no lock for {platform} and Python {python}:"
                                f" {path} is missing", command)  # fmt: skip
        found = lockfile.parse(path.read_text(), str(path)).input
        if found != (wanted := self.input(platform, python)):
            raise DriftError(
                f"{path} was made from another input than requirements.in and line.toml give now:"
                f" found {found}, expected {wanted}",
                command,
            )
        return path

    def check_pinned(self, platform: Platform) -> None:
        """UnpinnedError with the reason when a file of the additional index has no hash."""
        for pin in self.difference(platform).pins:
            if not pin.sha256:
                raise UnpinnedError(
                    f"line {self.name} on {platform} has no hash for {pin.file}: no two independent public"
                    f" locks that agree on one were found. Nothing is taken from the package index instead,"
                    f" whose torch for {platform.machine} is a CPU build",
                    f"write its sha256 and two sources into {self.folder / 'line.toml'},"
                    f" then make lock LINE={self.name}",
                )


def names() -> tuple[str, ...]:
    """All lines, sorted."""
    return tuple(sorted(path.parent.name for path in STACKS.glob("*/line.toml")))


def load(name: str) -> Line:
    """A line by name. UnknownNameError with a did-you-mean, InvalidFileError for what its file has wrong."""
    if name not in names():
        raise unknown("line", name, names())
    path = STACKS / name / "line.toml"
    return _checked(structs.replace(toml_file(path, Line), name=name), path)


_PYTHON = re.compile(r"3\.\d+")
_HEX = re.compile(r"[0-9a-f]{64}")


def _checked(line: Line, path: Path) -> Line:
    for arch, difference in line.platforms.items():
        if arch not in MACHINES:
            raise unknown("platform", arch, MACHINES, f"{path}, table [platforms]")
        for pin in difference.pins:
            if pin.sha256 and (not _HEX.fullmatch(pin.sha256) or len(set(pin.sources)) < 2):
                raise InvalidFileError(
                    f"{path}: pin {pin.name} needs a sha256 of 64 hex digits with two sources, found"
                    f" {pin.sha256!r} with {len(set(pin.sources))}"
                )
    if not line.pythons or not all(_PYTHON.fullmatch(python) for python in line.pythons):
        raise InvalidFileError(f"{path}: pythons must be like ['3.12'], found {list(line.pythons)}")
    return line
