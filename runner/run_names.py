"""Which run is meant: by its folder's name, a beginning of it, its id, a path, a job of Slurm, or `last`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from kit.errors import NotFoundError, SlipworksError, UnknownNameError, UsageError
from kit.suggest import nearest
from runner import run_files, submitted
from runner.run_files import NAMED
from runner.runs import RunFolder

LAST = "last"
FORMS = "a run: its folder's name or a beginning of it, its 8 hex digits, a path, a Slurm job id, or `last`"
MANY = 5  # names that an error lists


def folder_of_runs() -> Path:
    """Where the run folders of this user are here, by the settings."""
    from kit import settings

    return settings.folder_of("runs", settings.load().settings.runs)


def every(runs: Path) -> list[RunFolder]:
    """The runs in a folder, the newest first: by the time in their names."""
    names: list[str] = []
    with contextlib.suppress(FileNotFoundError):
        names = [entry.name for entry in os.scandir(runs) if NAMED.fullmatch(entry.name) and entry.is_dir()]
    return [RunFolder(runs / name) for name in sorted(names, key=_made, reverse=True)]


def _made(name: str) -> tuple[str, str]:
    found = NAMED.fullmatch(name)
    assert found
    return found[1], name


def find(word: str, runs: Path) -> RunFolder:
    """The one run that `word` means; UnknownNameError for none, UsageError for several."""
    if os.sep in word or word in (".", ".."):
        return _by_path(word)
    known = every(runs)
    if word == LAST:
        if not known:
            raise UnknownNameError(f"there is no run in {runs}", "runner submit JOB.YAML")
        return known[0]
    found = [each for each in known if each.root.name == word or each.run_id == word]
    found = found or (_by_job(word, known) if word.isdecimal() else [])
    found = found or [each for each in known if each.root.name.startswith(word)]
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(f"{word!r} is the beginning of {len(found)} runs: {_listed(found)}", _newest(found))
    if (Path(word) / "launch.json").is_file():
        return _by_path(word)
    raise _unknown(word, runs, known)


def found(words: Sequence[str], runs: Path) -> list[RunFolder]:
    """The runs that several words mean, each once."""
    return list({each.root: each for each in (find(word, runs) for word in words)}.values())


def before(one: RunFolder, runs: Sequence[RunFolder]) -> list[RunFolder]:
    """Those of `runs` that were submitted before `one`, by the times in their names; never itself."""
    named = NAMED.fullmatch(one.root.name)
    if named is None:
        raise UsageError(f"{one.root} is not called as runs are, so its time is not known")
    return [each for each in runs if _made(each.root.name)[0] < named[1]]


def _by_path(word: str) -> RunFolder:
    path = Path(word).expanduser().absolute()
    if not run_files.is_run(path):
        raise NotFoundError(f"{path} is not a run folder: it has no launch.json", "runner status")
    return RunFolder(Path(os.path.normpath(path)))


def _by_job(word: str, known: Sequence[RunFolder]) -> list[RunFolder]:
    """The run that a job is of: its submission names it."""
    for each in known:
        with contextlib.suppress(SlipworksError):
            record = submitted.read(each)
            if record and word in record.ids:
                return [each]
    return []


def _unknown(word: str, runs: Path, known: Sequence[RunFolder]) -> UnknownNameError:
    names = [each.root.name for each in known]
    meant = nearest(word, names)
    if meant is None:  # a job's name alone, misspelt
        jobs = {name.rsplit("-", 3)[0]: name for name in reversed(names)}
        meant = jobs.get(nearest(word, jobs) or "")
    what = f"there is no run {word!r} in {runs}"
    if word.isdecimal():
        what = f"no run in {runs} has the Slurm job {word}"
    return UnknownNameError(what, f"did you mean {meant!r}?" if meant else "runner status --all")


def _listed(found: Sequence[RunFolder]) -> str:
    names = [each.root.name for each in found[:MANY]]
    more = len(found) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")


def _newest(found: Sequence[RunFolder]) -> str:
    return f"the newest is {found[0].run_id}"
