"""The arms of a comparison: jobs that differ in the settings that a file names, and in nothing else.

A folder has `job.yaml` and, beside it, `arms.yaml` (see Arms). Two arms that differ elsewhere are refused:
they would measure two things at once. The name is each arm's own: the job's with the arm's behind it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from kit import decode
from kit.errors import InvalidFileError, UsageError
from kit.suggest import unknown
from runner import job as jobs
from runner import job_text, yaml_lines
from runner.job import Job
from slurm.clusters import Cluster

JOB, ARMS = "job.yaml", "arms.yaml"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,30}")
SHORT = 60  # characters of a value that an error quotes


class Arms(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """arms.yaml.

    settings  keys of the job, dotted, in which arms may differ; so may what is below them.
    arms      name -> key=value over job.yaml, as `runner submit` takes them, or the name of another job file.
    """

    settings: tuple[str, ...]
    arms: dict[str, tuple[str, ...] | str]


class Arm(Struct, frozen=True, kw_only=True):
    """One of them. written: the keys that its file and its overrides say at all."""

    name: str
    job: Job
    written: frozenset[str]


class Plan(Struct, frozen=True, kw_only=True):
    """A folder's arms.yaml, as it was read; `lines` as of yaml_lines.lines."""

    folder: Path
    arms: Arms
    lines: Mapping[str, str]

    def locate(self, at: str) -> str:
        return yaml_lines.locate(at, self.lines, str(self.folder / ARMS))


def read(folder: Path) -> Plan:
    """InvalidFileError and UnknownNameError with the line for what arms.yaml must not say."""
    path = folder / ARMS
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as bad:
        raise InvalidFileError(
            f"cannot read {path}: {bad}", "runner compare examples/thunderagent/ --dry-run"
        ) from bad
    root = yaml_lines.composed(text, str(path))
    lines = yaml_lines.lines(root, str(path))
    found = yaml_lines.plain(root, str(path))
    plan = Plan(
        folder=folder,
        arms=decode.convert(found, Arms, str(path), lambda at: yaml_lines.locate(at, lines, str(path))),
        lines=lines,
    )
    for place, setting in enumerate(plan.arms.settings):
        top = re.split(r"[.\[]", setting)[0]
        if top not in Job.__struct_fields__ or top == "name":
            raise unknown(
                "setting", top, set(Job.__struct_fields__) - {"name"}, plan.locate(f"settings[{place}]")
            )
    for name in plan.arms.arms:
        if not NAME.fullmatch(name):
            at = plan.locate(f"arms.{name}")
            raise InvalidFileError(
                f"{at}: found the arm {name!r}, expected at most 31 letters, digits and ._-"
            )
    return plan


def loaded(
    plan: Plan, names: Sequence[str] = (), more: Sequence[str] = (), cluster: Cluster | None = None
) -> tuple[Arm, ...]:
    """The arms of these names (none: all), with `more` overrides for all of them, held against each other.

    cluster: as for job.load. Errors as of job.load; UnknownNameError for an arm that there is not;
    InvalidFileError for two that differ elsewhere, not at all, or would share their checkpoints.
    """
    known = plan.arms.arms
    for name in names:
        if name not in known:
            raise unknown("arm", name, known, str(plan.folder / ARMS))
    wanted = tuple(dict.fromkeys(names or known))
    if len(wanted) < 2:
        raise UsageError(f"found {len(wanted)} arm(s) to compare, expected 2 or more", _hint(known))
    for override in more:
        key = override.partition("=")[0]
        if any(_is_below(key, setting) or _is_below(setting, key) for setting in plan.arms.settings):
            raise UsageError(
                f"{key}= is what the arms differ in ({ARMS}), so it cannot be set for all of them"
            )
    arms = tuple(_load(plan, name, more, cluster) for name in wanted)
    for first, second in combinations(arms, 2):
        _hold(plan, first, second)
    return arms


def differences(first: Arm, second: Arm) -> dict[str, tuple[Any, Any]]:
    """Dotted key -> both values, the name left out. Where a section of the job makes another key (SkyRL's
    makes `run`), the section is what counts."""
    written = (first.written | second.written) - {"name"}
    found = differing(*(msgspec.to_builtins(arm.job) for arm in (first, second)))
    return {key: values for key, values in found.items() if re.split(r"[.\[]", key)[0] in written}


def differing(one: Any, two: Any) -> dict[str, tuple[Any, Any]]:
    """Dotted key -> both values, where two mappings differ; None: that one has nothing there."""
    first, second = dict(_leaves(one, "")), dict(_leaves(two, ""))
    keys = [*first, *(key for key in second if key not in first)]
    return {key: (first.get(key), second.get(key)) for key in keys if first.get(key) != second.get(key)}


def told(arms: Sequence[Arm]) -> Iterator[str]:
    """What each differs in from the first, a line an arm."""
    for arm in arms[1:]:
        pairs = [
            f"{key} {_said(one)} against {_said(two)}"
            for key, (one, two) in differences(arms[0], arm).items()
        ]
        yield f"{arms[0].name} and {arm.name} differ in {', '.join(pairs)}"


def _load(plan: Plan, name: str, more: Sequence[str], cluster: Cluster | None) -> Arm:
    said = plan.arms.arms[name]
    path = plan.folder / (said if isinstance(said, str) else JOB)
    overrides = [*(() if isinstance(said, str) else said), *more]
    written = job_text.read(path, overrides).data
    common = jobs.load(path, overrides, cluster).name
    full = common if common.endswith(f"-{name}") else f"{common}-{name}"
    if len(full) > 63:
        raise InvalidFileError(f"{plan.locate(f'arms.{name}')}: the name {full} has more than 63 characters")
    # Loaded with it: a command that a section makes may have the name in it.
    job = jobs.load(path, [*overrides, f'name="{full}"'], cluster)
    return Arm(name=name, job=job, written=frozenset(written))


def _hold(plan: Plan, first: Arm, second: Arm) -> None:
    where, both = plan.locate(f"arms.{second.name}"), f"the arms {first.name} and {second.name}"
    found = differences(first, second)
    for key, (one, two) in found.items():
        if not any(_is_below(key, setting) for setting in plan.arms.settings):
            raise InvalidFileError(
                f"{where}: {both} differ in {key}, which `settings` does not name: {_said(one)} against "
                f"{_said(two)}",
                f"make {key} the same, or name it in `settings` of {plan.folder / ARMS}",
            )
    if not found:
        raise InvalidFileError(f"{where}: {both} are the same job, so there is nothing to compare")
    shared = first.job.saved.shared if first.job.saved else None
    if shared is not None and second.job.saved and second.job.saved.shared == shared:
        raise InvalidFileError(
            f"{where}: {both} have the checkpoints {shared!r} in common: one would go on from the other's",
            "checkpoints: true",
        )


def _leaves(value: Any, at: str) -> Iterator[tuple[str, Any]]:
    """Dotted path -> each value that is neither mapping nor list; an empty one counts as one."""
    if isinstance(value, dict) and value:
        for key, below in value.items():
            yield from _leaves(below, f"{at}.{key}" if at else str(key))
    elif isinstance(value, list | tuple) and value:
        for place, below in enumerate(value):
            yield from _leaves(below, f"{at}[{place}]")
    else:
        yield at, value


def _is_below(key: str, setting: str) -> bool:
    return key == setting or key.startswith((f"{setting}.", f"{setting}["))


def _said(value: Any) -> str:
    if value is None:
        return "nothing"
    text = repr(value)
    return text if len(text) <= SHORT else f"{text[:SHORT]}…"


def _hint(known: Mapping[str, object]) -> str:
    return f"--arms {','.join(known)}"
