"""The runs of this user with their states: their files are read, and Slurm is asked once for all of them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from msgspec.structs import replace

from kit import say
from kit.errors import NotFoundError, SlipworksError
from runner import run_files, run_states, settling, slurm_rows, submitted
from runner.run_files import RunFiles
from runner.run_states import Now, Row
from runner.runs import RunFolder
from runner.slurm_rows import Slurm

YEAR = 366 * 86400.0
DAY = 86400.0


class Watch:
    """One look: Slurm is asked at most once, and only if a run needs it."""

    def __init__(self, reach: Callable[[], Slurm] = slurm_rows.reach) -> None:
        self._reach = reach
        self._slurm: Slurm | None = None
        self._rows: Mapping[str, Row] | None = None
        self._reached = self._asked = False
        self._lack = ""

    @property
    def slurm(self) -> Slurm | None:
        """Slurm, looked for when it is first needed; None, which is told once, where it is not reached."""
        if not self._reached:
            self._reached = True
            try:
                self._slurm = self._reach()
            except SlipworksError as lack:
                self._lack = lack.message
        if self._lack:
            say.once(f"note: Slurm is not asked: {self._lack}")
        return self._slurm

    @property
    def rows(self) -> Mapping[str, Row] | None:
        """This user's jobs by id, as far as the queue knows them; None where Slurm does not answer."""
        if not self._asked and self.slurm:
            try:
                self._rows = self.slurm.mine()
            except SlipworksError as away:
                say.once(f"note: Slurm does not answer, so its word is missing: {away.message}")
                self._slurm = None
        self._asked = True
        return self._rows

    def states(self, folders: Sequence[RunFolder]) -> list[Now]:
        """The states of runs. A broken submission is healed; what has ended is settled: see settling.py."""
        found = [self._healed(run_files.read(each)) for each in folders]
        rows = self.rows if any(_open(each) for each in found) else {}
        made = [self._of(each, rows) for each in found]
        made = self._looked_up(made)
        for each in made:
            settling.settle(each)
        return made

    def elsewhere(self, files: RunFiles) -> bool:
        """Whether a run's jobs are, as far as names tell, another Slurm's than the one that is asked here."""
        return bool(files.record and self._slurm and self._slurm.cluster != files.record.cluster)

    def _of(self, files: RunFiles, rows: Mapping[str, Row] | None) -> Now:
        return run_states.of(files, rows, time.time(), elsewhere=self.elsewhere(files))

    def state(self, folder: RunFolder) -> Now:
        return self.states([folder])[0]

    def anew(self, folder: RunFolder) -> Now:
        """Its state at this moment, whatever was asked before."""
        self._asked = False
        return self.state(folder)

    def by_files(self, folder: RunFolder) -> Now:
        """Its state as far as its files tell; Slurm is not asked."""
        return run_states.of(run_files.read(folder), None, time.time())

    def history(self, folders: Sequence[RunFolder], seconds: float) -> list[Now]:
        """The runs that ended in the last `seconds`, the latest first, by the accounting where it is."""
        recent = [each for each in folders if not settled(each, seconds)]
        if any(each.submission.exists() for each in recent) and self.rows is not None and self.slurm:
            try:
                past = self.slurm.past(seconds)
            except SlipworksError as away:
                past = None
                say.once(f"note: the accounting does not answer: {away.message}")
            self._rows = {**(past or {}), **(self._rows or {})}
        since = time.time() - seconds
        found = [each for each in self.states(recent) if each.over and (each.ended or 0) >= since]
        return sorted(found, key=lambda each: each.ended or 0, reverse=True)

    def others(self, known: Sequence[Now], runs: Path) -> list[Row]:
        """This user's jobs that wait or run and are of none of the runs in `runs`; none without Slurm."""
        if not self._reached:
            with contextlib.suppress(SlipworksError):
                self._slurm = self._reach()
            self._reached = True
        return others(self.rows or {}, known, runs) if self._slurm else []

    def _healed(self, files: RunFiles) -> RunFiles:
        record = files.record
        if record is None or not submitted.abandoned(record) or self.slurm is None:
            return files
        try:
            there = not self.elsewhere(files)
            return replace(files, record=submitted.healed(files.folder, record, self.slurm, there=there))
        except SlipworksError as away:
            say.say(f"note: {files.folder.root.name} could not be healed: {away.message}")
            return files

    def _looked_up(self, states: list[Now]) -> list[Now]:
        """What ended without a word, and long ago: the accounting may know how."""
        ids = [id for each in states if _wordless(each) for id in each.jobs]
        if not ids or self.slurm is None:
            return states
        try:
            past = self.slurm.past(YEAR, ids)
        except SlipworksError:
            return states
        rows = {**(past or {}), **(self._rows or {})}
        return [self._of(each.files, rows) if _wordless(each) else each for each in states]


def settled(folder: RunFolder, older: float) -> bool:
    """Whether a run is known, by a look at two files, to have ended more than `older` seconds ago."""
    for end in (folder.finished, folder.result):
        try:
            if time.time() - end.stat().st_mtime > older:
                return True
        except OSError:
            continue
    return False


def long_over(now: Now) -> bool:
    """Whether it ended more than a day ago."""
    return now.over and time.time() - (now.ended or now.files.made) > DAY


def others(rows: Mapping[str, Row], known: Sequence[Now], runs: Path) -> list[Row]:
    """This user's jobs that wait or run and are of none of the runs in `runs`, by id."""
    ours = {row.id for each in known for row in each.rows}
    ids = {each.name.rpartition("-")[2] for each in runs.glob("*-*")}
    return sorted(
        (row for row in rows.values()
         if row.kind != "ended" and row.id not in ours and _run_id(row.comment) not in ids),
        key=lambda row: row.id.zfill(20),
    )  # fmt: skip


def ended_error(now: Now, what: str) -> NotFoundError:
    """That nothing can be done with a run that does not run."""
    told = f"{now.state}: {now.why}" if now.why else now.state
    return NotFoundError(f"{now.files.folder.root.name} {what}: it is {told}", "runner status")


def _run_id(comment: str) -> str | None:
    parts = comment.split(":")
    return parts[1] if len(parts) == 3 and parts[0] == submitted.COMMENT else None


def _open(files: RunFiles) -> bool:
    """Whether Slurm may know more of it than its files do."""
    record = files.record
    if record is None or record.state == "failed":
        return False
    return not (files.finished is not None and time.time() - (files.finished_at or 0) > DAY)


def _wordless(now: Now) -> bool:
    """Whether its files do not say why it ended, and the queue has forgotten it."""
    last = now.files.last
    told = now.files.finished is not None or any(row.kind == "ended" for row in now.rows)
    if told or not now.jobs:
        return False
    return now.state == "lost" or (now.state == "failed" and last is not None and last.asked is not None)
