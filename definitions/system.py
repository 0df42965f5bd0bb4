"""The distribution packages that an image has beside those of its base, as data in system.toml."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from msgspec import Struct

from definitions.lines import Line
from kit.decode import toml_file
from kit.nouns import Base

FILE = Path(str(files("definitions") / "system.toml"))


class _Packages(Struct, frozen=True, forbid_unknown_fields=True):
    packages: tuple[str, ...]
    leave_out: tuple[str, ...] = ()


class _File(Struct, frozen=True, forbid_unknown_fields=True):
    cuda: _Packages
    plain: _Packages


def packages(line: Line, base: Base) -> tuple[str, ...]:
    """Sorted, with the C headers of the base's Python where something is compiled and the base lacks them."""
    found = toml_file(FILE, _File)
    wanted = found.cuda.packages if line.cuda else found.plain.packages
    return tuple(sorted({*wanted, *(base.headers if wanted else ())}))
