"""The overrides of a job, as keys of one version: flattened, renamed, checked; complaints name their line."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from kit import say
from kit.errors import InvalidFileError, SlipworksError, UnknownNameError, UnsupportedError
from kit.suggest import nearest
from runner.skyrl import values, versions
from runner.skyrl.versions import VERSIONS, Snapshot, Version

Locate = Callable[[str], str]

GUARDED = {
    "data.train_data": "skyrl.data.train",
    "data.val_data": "skyrl.data.val",
    "trainer.policy.model.path": "skyrl.model",
    "trainer.ckpt_path": "checkpoints.target, or checkpoints.shared",
    "trainer.override_entrypoint": "skyrl.entrypoint",
    "hydra.searchpath": "skyrl.search",
}
"""Keys that the section itself says -> the job's own key for it."""
KEY = re.compile(r"[A-Za-z_][\w-]*(\.[\w-]+)*")


def settled(version: Version, overrides: Mapping[str, Any], locate: Locate) -> dict[str, Any]:
    """Key of the version -> value as it wants it, in the order of the job.

    UnsupportedError for a guarded key, with the one to use instead; UnknownNameError for a key that the
    version has not; InvalidFileError for a value that is none for its key.
    """
    found: dict[str, Any] = {}
    for key, value in flat(overrides, version.snapshot):
        at = locate(f"skyrl.overrides.{key}")
        _refuse(key, at)
        name = _named(version, key, at)
        if name is None:
            continue
        if name in found:
            raise InvalidFileError(f"{at}: {name} is given twice")
        found[name] = _value(version, name, value, at)
    return found


def beyond(version: Version, extra: Mapping[str, Any], locate: Locate) -> dict[str, Any]:
    """The keys that only the job's own entrypoint knows; InvalidFileError for one of SkyRL's own."""
    found = {}
    for key, value in flat(extra, version.snapshot):
        at = locate(f"skyrl.extra.{key}")
        _refuse(key, at)
        if kind(version.snapshot, key):
            raise InvalidFileError(f"{at}: {key} is SkyRL's own key", "say it in skyrl.overrides")
        found[key] = values.plain(value)
    return found


def flat(data: Mapping[str, Any], snapshot: Snapshot, above: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value. A mapping is gone into, but for an empty one, and one that is a key's value."""
    for name, value in data.items():
        key = f"{above}{name}"
        deeper = any(each.startswith(f"{key}.") for each in snapshot.keys)
        if isinstance(value, dict) and value and (deeper or snapshot.keys.get(key) != "any"):
            yield from flat(value, snapshot, f"{key}.")
        else:
            yield key, value


def kind(snapshot: Snapshot, key: str) -> versions.Kind | None:
    """What the key holds; below a mapping that is open anything; None for a key that there is not."""
    if key in snapshot.keys:
        return snapshot.keys[key]
    while "." in key:
        key = key.rpartition(".")[0]
        if snapshot.keys.get(key) == "mapping":
            return "any"
    return None


def _refuse(key: str, at: str) -> None:
    if key.startswith(("+", "~")):
        raise InvalidFileError(
            f"{at}: found {key}, expected the key alone: `+` is put where Hydra needs it", key.lstrip("+~")
        )
    if not KEY.fullmatch(key):
        raise InvalidFileError(f"{at}: found {key!r}, expected names with dots between")
    for guarded, instead in GUARDED.items():
        if key == guarded or key.startswith(f"{guarded}."):
            raise UnsupportedError(
                f"{at}: {guarded} cannot be overridden: the job says it by {instead}", instead
            )


def _named(version: Version, key: str, at: str) -> str | None:
    """The key as the version calls it; None for one that it needs no more."""
    if kind(version.snapshot, key) or (version.hydra and key.startswith("hydra.")):
        return key
    table = versions.renamed()
    if version.hydra:
        name = _moved(key, versions.former())
    elif (why := table.left_out.get(key)) is not None:
        say.say(f"note: {at}: {key} is left out of the command for {version.requirement}: {why}")
        return None
    else:
        name = _moved(key, table.names)
    if name is None or not kind(version.snapshot, name):
        raise _unknown(version, key, at)
    return name


def _moved(key: str, names: Mapping[str, str]) -> str | None:
    """The new name of a key, or of one below a mapping that has moved."""
    for old, new in names.items():
        if key == old or key.startswith(f"{old}."):
            return new + key[len(old) :]
    return None


def _unknown(version: Version, key: str, at: str) -> SlipworksError:
    """Of all keys, only what may have been meant is told: there are hundreds."""
    others = [each.requirement for each in VERSIONS if each != version and kind(each.snapshot, key)]
    told = f", which {others[0]} has" if others else ""
    known = [*version.snapshot.keys, *(versions.former() if version.hydra else versions.renamed().names)]
    meant = nearest(key, known) or nearest(key.rpartition(".")[2], known)
    inside = [each for each in version.snapshot.keys if each.startswith(f"{key}.")]
    if inside:
        return InvalidFileError(f"{at}: {key} holds keys of its own, as {inside[0]}: expected a mapping")
    return UnknownNameError(
        f"{at}: {version.requirement} has no key {key!r}{told}; what your own entrypoint adds goes into "
        "skyrl.extra",
        f"did you mean {meant!r}?" if meant else None,
    )


def _value(version: Version, key: str, value: Any, at: str) -> Any:
    try:
        made = values.taken(value, kind(version.snapshot, key) or "any")
    except ValueError as expected:
        raise InvalidFileError(f"{at}: found {value!r} for {key}, expected {expected}") from expected
    newer = versions.renamed().values.get(key, {}) if not version.hydra else {}
    return newer.get(made, made) if isinstance(made, str) else made
