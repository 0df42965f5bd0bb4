"""What a job says of a training with SkyRL."""

from __future__ import annotations

from typing import Any

from msgspec import Struct


class SkyrlData(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What SkyRL trains and evaluates on.

    train  files inside (parquet, json; folders of tasks for some entrypoints), or names of data sets.
    val    the same, for evaluation; left out: nothing is evaluated.
    """

    train: tuple[str, ...]
    val: tuple[str, ...] = ()


class Skyrl(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Training with SkyRL; it makes the command, so the job has no `run`.

    version     "0.3.1" (the package skyrl-train) or "0.4.0" (skyrl); None: the one in the lock of the line.
    entrypoint  the module that runs; None: the version's own main_base.
    model       trainer.policy.model.path: a folder inside, or a name on the hub.
    data        see SkyrlData.
    groups      group -> choice: Hydra's config groups, which 0.4 has not.
    search      folders inside in which Hydra looks for such groups, too.
    overrides   keys of SkyRL's configuration -> value; dotted or nested, by the names of either version.
    extra       keys that an entrypoint of your own has beside them; dotted or nested.
    """

    model: str
    data: SkyrlData
    version: str | float | None = None
    entrypoint: str | None = None
    groups: dict[str, str] = {}
    search: tuple[str, ...] = ()
    overrides: dict[str, Any] = {}
    extra: dict[str, Any] = {}
