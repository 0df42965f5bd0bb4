"""Settings, each with its source: flag > environment > user file > cluster file > default.

This module is the one door to the environment for configuration. The user file is
`$XDG_CONFIG_HOME/slipworks/config.toml`; the variable of a setting is `SLIPWORKS_<NAME>`.
"""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct, field, structs

from kit.decode import convert, toml_table
from kit.errors import HostError, InvalidFileError, NoSpaceError


def _cache_default() -> str:
    return str(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "slipworks")


def state() -> Path:
    """The user's folder of what commands leave for later ones, whether or not it exists."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "slipworks"


def _runs_default() -> str:
    return str(state() / "runs")


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a user can set once for all commands.

    cache        folder of the image store and of all that can be made again
    engine       docker, podman, buildah or apptainer; None: the first one that works here
    cluster      a profile of slurm/clusters; None: detected
    runs         folder under which every job gets a run folder of its own
    bases        a file like definitions/bases.toml with bases of your own; None: ours only
    torch_index  additional wheel index for the CUDA 12 torch of arm64 (PyTorch's own); None: not set

    Beside them the user file has tables `[clusters.NAME]`, whose keys go over those of the cluster's file, or
    make a cluster of one's own. They are checked by slurm.clusters, which knows the keys.
    """

    cache: str = field(default_factory=_cache_default)
    engine: str | None = None
    cluster: str | None = None
    runs: str = field(default_factory=_runs_default)
    bases: str | None = None
    torch_index: str | None = None
    clusters: dict[str, dict[str, Any]] = {}

    @property
    def cache_folder(self) -> Path:
        """Checked as `folder_of` says."""
        return folder_of("cache", self.cache)


NAMES = tuple(each.name for each in structs.fields(Settings) if each.name != "clusters")
"""Of those with one value, which a variable can hold."""


class Sourced(Struct, frozen=True):
    """The settings, and for each name where its value came from (for `runner config`)."""

    settings: Settings
    sources: dict[str, str]


def user_file(environment: Mapping[str, str] = os.environ) -> Path:
    """Where the user's own settings lie, whether or not the file exists."""
    root = environment.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(root) / "slipworks" / "config.toml"


def load(
    flags: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] = os.environ,
    cluster: Mapping[str, Any] | None = None,
) -> Sourced:
    """Reads every layer. Unknown keys in the user file and unknown SLIPWORKS_ variables are errors.

    `flags` and `cluster` hold values by setting name; None in `flags` means not given. Where no `cluster` is
    given, the one that `follow` was told of says its values.
    """
    if cluster is None and environment is os.environ:
        cluster = _followed[-1]()
    path = user_file(environment)
    layers: list[tuple[str, Mapping[str, Any]]] = [
        ("flag", {name: value for name, value in (flags or {}).items() if value is not None}),
        ("environment", _from_environment(environment)),
        (str(path), toml_table(path, Settings) if path.exists() else {}),
        ("cluster file", cluster or {}),
    ]
    values: dict[str, Any] = {}
    sources: dict[str, str] = dict.fromkeys(NAMES, "default")
    for source, layer in reversed(layers):
        for name, value in layer.items():
            values[name] = value
            sources[name] = f"SLIPWORKS_{name.upper()}" if source == "environment" else source
    loaded = Sourced(convert(values, Settings, "the settings"), sources)
    _check(loaded)
    return loaded


_followed: list[Callable[[], Mapping[str, Any]]] = [dict]


def follow(layer: Callable[[], Mapping[str, Any]] | None) -> None:
    """From now on `load` asks `layer` for the cluster's values; None: there are none."""
    _followed[-1] = layer or dict


HINT = "runner config"


def _check(loaded: Sourced) -> None:
    for name in NAMES:
        if getattr(loaded.settings, name) == "":
            raise InvalidFileError(f"found an empty {name} in {loaded.sources[name]}", HINT)
    for name in ("cache", "runs"):
        value = getattr(loaded.settings, name)
        try:
            Path(value).expanduser()
        except RuntimeError as nobody:  # ~name of a user that there is not
            raise InvalidFileError(
                f"the setting {name} ({loaded.sources[name]}) is {value!r}: there is no such home", HINT
            ) from nobody
        if "\0" in value or "\n" in value:
            raise InvalidFileError(
                f"the setting {name} ({loaded.sources[name]}) holds a line break or a NUL byte: {value!r}",
                HINT,
            )


def writable(name: str) -> Path:
    """The folder of the setting `name` (cache, runs), into which files can be put; makes nothing.

    It need not be there yet. Errors as of `folder_of`, and HostError where it is only to be read.
    """
    loaded = load()
    folder = folder_of(name, getattr(loaded.settings, name), f" ({loaded.sources[name]})")
    if folder.exists():
        _probe(folder, f"the setting {name} ({loaded.sources[name]}) is {folder}")
    return folder


def folder_of(name: str, value: str, source: str = "") -> Path:
    """The folder that the setting `name` means; makes nothing.

    InvalidFileError if something on its path is a file; HostError if it cannot be read, or be made.
    """
    folder = Path(value).expanduser().absolute()
    told = f"the setting {name}{source} is {folder}"
    for there in (folder, *folder.parents):
        try:
            kind = there.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as closed:
            raise HostError(f"{told}: {there}: {closed.strerror}", HINT) from closed
        if not stat.S_ISDIR(kind):
            raise InvalidFileError(f"{told}: {there} is a file, expected a folder", HINT)
        if there != folder:
            _probe(there, told)
        elif not os.access(there, os.R_OK | os.X_OK):
            raise HostError(f"{told}: it cannot be read", HINT)
        break
    return folder


def _probe(folder: Path, told: str) -> None:
    """Makes and removes a folder: modes tell nothing of read-only and kernel file systems, nor to root."""
    try:
        Path(tempfile.mkdtemp(prefix=".slipworks-", dir=folder)).rmdir()
    except OSError as refused:
        if refused.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpaceError(f"{told}: no space left on the device", HINT) from refused
        raise HostError(f"{told}: {folder} cannot be written to", HINT) from refused


RESERVED = frozenset({
    "SLIPWORKS_RANK", "SLIPWORKS_NODES", "SLIPWORKS_RUN", "SLIPWORKS_CHECKPOINTS", "SLIPWORKS_TRACE",
    "SLIPWORKS_HOST_PROGRAMS", "SLIPWORKS_STAGED", "SLIPWORKS_SANDBOX_URL", "SLIPWORKS_SANDBOX_KEY",
})  # fmt: skip
"""Variables of this prefix that are not settings: the runner sets them for a job's processes."""


def _from_environment(environment: Mapping[str, str]) -> dict[str, str]:
    found = {
        name.removeprefix("SLIPWORKS_").lower(): value
        for name, value in environment.items()
        if name.startswith("SLIPWORKS_") and name not in RESERVED
    }
    unknown_names = set(found) - set(NAMES)
    if unknown_names:
        from kit.suggest import unknown

        raise unknown(
            "variable",
            f"SLIPWORKS_{min(unknown_names).upper()}",
            [f"SLIPWORKS_{name.upper()}" for name in NAMES],
            "the environment",
        )
    if empty := [name for name, value in found.items() if not value]:
        raise InvalidFileError(
            f"SLIPWORKS_{empty[0].upper()} is set but empty", f"unset SLIPWORKS_{empty[0].upper()}"
        )
    return found
