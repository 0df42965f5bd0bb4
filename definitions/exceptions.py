"""What a proof lets pass and what it goes by: exceptions.toml. Data, with a reason for each exemption."""

from __future__ import annotations

import functools
from importlib.resources import files
from pathlib import Path

from msgspec import Struct

from kit.decode import toml_file
from kit.exemptions import CodeRule, Exemption

PATH = Path(str(files("definitions") / "exceptions.toml"))


class Exceptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """driver: libraries of the host's driver. code: what must hold GPU code. exemption: what may be wrong."""

    driver: tuple[str, ...]
    code: tuple[CodeRule, ...] = ()
    exemption: tuple[Exemption, ...] = ()


@functools.cache
def load(path: Path = PATH) -> Exceptions:
    """InvalidFileError or UnknownNameError for what the file has wrong."""
    return toml_file(path, Exceptions)
