"""The versions of SkyRL that commands can be made for: what each is called, and the keys that it knows.

keys/VERSION.toml is written by `make skyrl-keys` from the version's own wheel, and is not edited; what has
changed its name from one to the next is in keys/renamed.toml.
"""

from __future__ import annotations

import functools
from importlib import resources
from types import MappingProxyType
from typing import Literal

from msgspec import Struct

from kit import decode
from kit.errors import UsageError
from kit.suggest import unknown

Kind = Literal["number", "truth", "text", "list", "mapping", "any"]
FOLDER = "keys"
VARIABLE = "SLIPWORKS_SKYRL"
"""Tells a node for which version the command was made, as `skyrl==0.4.0`."""


class Snapshot(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a version's configuration knows. groups: Hydra's, as its defaults list names them."""

    package: str
    version: str
    groups: tuple[str, ...] = ()
    keys: dict[str, Kind]


class Renamed(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Names of 0.3.1 and what became of them in 0.4.0.

    names     old key -> new key.
    left_out  old key -> why 0.4.0 needs no such key: it is left out, and that is told.
    values    new key -> old value -> new value.
    """

    names: dict[str, str]
    left_out: dict[str, str]
    values: dict[str, dict[str, str]]


class Version(Struct, frozen=True, kw_only=True):
    """A version: how its program is started.

    hydra    the command line is Hydra's; else OmegaConf's dotlist, which has neither groups nor `+`.
    engines, parallel   the key for the number of inference engines; those for the GPUs of one.
    log      the key of the folder of its infrastructure log; None: it has none.
    """

    version: str
    package: str
    entrypoint: str
    hydra: bool
    engines: str
    parallel: tuple[str, ...]
    local: str
    log: str | None = None

    @property
    def snapshot(self) -> Snapshot:
        return _snapshot(self.version)

    @property
    def requirement(self) -> str:
        return f"{self.package}=={self.version}"


TRAIN = Version(
    version="0.3.1", package="skyrl-train", entrypoint="skyrl_train.entrypoints.main_base", hydra=True,
    engines="generator.num_inference_engines", local="generator.run_engines_locally",
    parallel=tuple(
        f"generator.inference_engine_{way}_parallel_size" for way in ("tensor", "pipeline", "data")
    ),
)  # fmt: skip
WHOLE = Version(
    version="0.4.0", package="skyrl", entrypoint="skyrl.train.entrypoints.main_base", hydra=False,
    engines="generator.inference_engine.num_engines", log="trainer.log_path",
    local="generator.inference_engine.run_engines_locally",
    parallel=tuple(
        f"generator.inference_engine.{way}_parallel_size" for way in ("tensor", "pipeline", "data")
    ),
)  # fmt: skip
VERSIONS = (TRAIN, WHOLE)


def of(said: str | float, where: str) -> Version:
    """The version that is meant by "0.4.0", "0.4" or 0.4; UnknownNameError for another."""
    word = str(said)
    for each in VERSIONS:
        if each.version == word or each.version.startswith(f"{word}."):
            return each
    raise unknown("version of SkyRL", word, [each.version for each in VERSIONS], where)


def of_line(line: str, where: str) -> Version:
    """The version that the images of a line have; UsageError where they have none that is known."""
    from definitions import lines

    asked = [each.replace(" ", "").partition("==") for each in lines.load(line).requirements()]
    found = {name.partition("[")[0]: number for name, _, number in asked}
    for each in VERSIONS:
        if found.get(each.package) == each.version:
            return each
    known = ", ".join(each.requirement for each in VERSIONS)
    raise UsageError(f"{where}: the line {line} has no SkyRL of those that are known: {known}", "line=cu13")


@functools.cache
def renamed() -> Renamed:
    """The table of what has changed its name."""
    return decode.toml(_text("renamed.toml"), Renamed, f"runner/skyrl/{FOLDER}/renamed.toml")


@functools.cache
def former() -> MappingProxyType[str, str]:
    """New key -> old key."""
    return MappingProxyType({new: old for old, new in renamed().names.items()})


@functools.cache
def _snapshot(version: str) -> Snapshot:
    return decode.toml(_text(f"{version}.toml"), Snapshot, f"runner/skyrl/{FOLDER}/{version}.toml")


def _text(name: str) -> str:
    return (resources.files("runner.skyrl") / FOLDER / name).read_text()
