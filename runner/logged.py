"""Where the training log of a run is found: by a run's name or folder, or as any launcher's file."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from msgspec import DecodeError, Struct, json

from kit.errors import InvalidFileError, UsageError
from runner import arms, run_names, training_log
from runner.comparison import Run
from runner.runs import RunFolder

HINT = "runner throughput JOB … --trajectories-per-step N"


class _Asked(Struct):
    trajectories: int


class _Job(Struct):
    """What is asked of a run's job here."""

    name: str = ""
    throughput: _Asked | None = None


class Logged(Struct, frozen=True, kw_only=True):
    """A run with a training log. logs: of each attempt, in their order. folder: None for a file alone."""

    source: Path
    logs: tuple[Path, ...]
    folder: RunFolder | None = None

    def lines(self) -> Iterator[Iterator[str]]:
        """The lines of each log; what is no UTF-8 is replaced."""
        for path in self.logs:
            with ExitStack() as opened:
                try:
                    yield opened.enter_context(path.open(encoding="utf-8", errors="replace"))
                except OSError as bad:
                    raise InvalidFileError(f"cannot read the log {path}: {bad}") from bad

    def read(self, label: str, trajectories: int) -> Run:
        steps = training_log.of_run(self.lines())
        return Run(
            label=label, source=_shown(str(self.source)), trajectories=trajectories, steps=tuple(steps)
        )

    def job(self) -> dict[str, Any]:
        """The run's job as it was resolved; {} for a file alone, and for a folder without one."""
        if self.folder is None or not self.folder.job.is_file():
            return {}
        try:
            raw = self.folder.job.read_bytes()
            found = json.decode(raw, type=dict[str, Any])
            json.decode(raw, type=_Job)
        except (DecodeError, OSError) as bad:  # ValidationError is a DecodeError
            raise InvalidFileError(f"cannot read the run's job {self.folder.job}: {bad}", HINT) from bad
        return found


def find(word: str) -> Logged:
    """What `word` names: a file, a run folder, or a run as run_names.find has it.

    InvalidFileError where there is no log; errors as of run_names.find for a run that there is not.
    """
    path = Path(word)
    if path.is_dir():
        return _of_run(RunFolder(path))
    if path.exists():
        return Logged(source=path, logs=(path,))
    if os.sep in word:
        raise InvalidFileError(f"there is no log {path}")
    return _of_run(run_names.find(word, run_names.folder_of_runs()))


def _of_run(folder: RunFolder) -> Logged:
    logs = tuple(log for each in folder.attempts() if (log := each.log(0)).exists())
    if not logs:
        raise InvalidFileError(f"{folder.root} has no training log: no attempt-1/node-0.log is in it")
    return Logged(source=folder.root, logs=logs, folder=folder)


def trajectories(found: Sequence[Logged], asked: int | None) -> list[int]:
    """How many a step has, of each: as asked for, else by the run's job, else by the other's."""
    if asked is not None:
        return [asked] * len(found)
    said = [_said(each) for each in found]
    known = [number for number in said if number is not None]
    if not known:
        raise UsageError("how many trajectories a step is not known", HINT)
    return [known[0] if number is None else number for number in said]


def _said(found: Logged) -> int | None:
    asked = (found.job().get("throughput") or {}).get("trajectories", 0)
    return int(asked) if asked >= 1 else None


def labels(first: Logged, second: Logged) -> tuple[str, str]:
    """What the two are called: their jobs' names or their files'; where those are the same, more of them."""
    for names in ((_name(first), _name(second)), (first.source.name, second.source.name)):
        if names[0] != names[1]:
            return _shown(names[0]), _shown(names[1])
    return _shown(f"{_name(first)} (1)"), _shown(f"{_name(second)} (2)")


def _name(found: Logged) -> str:
    if found.folder is None:
        return found.source.stem
    return str(found.job().get("name") or found.source.resolve().name)


def notes(first: Logged, second: Logged, numbers: Sequence[int]) -> Iterator[str]:
    """What one should know before one believes the comparison."""
    one, two = first.job(), second.job()
    if one and two:
        made = bool(one.get("skyrl") and two.get("skyrl"))  # `run`, of the section, with the name in it
        keys = [
            key for key in arms.differing(one, two) if key != "name" and not (made and key.startswith("run["))
        ]
        yield f"the jobs differ in {', '.join(keys)}" if keys else "the jobs are the same"
    if numbers[0] != numbers[1]:
        yield f"note: a step has {numbers[0]} trajectories in one and {numbers[1]} in the other"


def fit_for_a_file(label: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", label)[:80]


def _shown(text: str) -> str:
    """A name that every file can hold: no control characters, nothing that is no UTF-8."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)
