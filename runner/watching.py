"""The runs of this user with their states: their files are read, and Slurm is asked once for all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from msgspec.structs import replace

from kit import say
from kit.errors import NotFoundError, SlipworksError
from runner import run_files, run_states, slurm_rows, submitted
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

    @property
    def slurm(self) -> Slurm | None:
        """Slurm, looked for when it is first needed; None, which is told once, where it is not reached."""
        if not self._reached:
            self._reached = True
            try:
                self._slurm = self._reach()
            except SlipworksError as lack:
                say.once(f"note: Slurm is not asked: {lack.message}")
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
        """The states of runs. A broken submission is healed; what has ended keeps no secret."""
        found = [self._healed(run_files.read(each)) for each in folders]
        rows = self.rows if any(_open(each) for each in found) else {}
        made = [run_states.of(each, rows, time.time()) for each in found]
        made = self._looked_up(made)
        for each in made:
            _forget(each)
        return made

    def state(self, folder: RunFolder) -> Now:
        return self.states([folder])[0]

    def anew(self, folder: RunFolder) -> Now:
        """Its state at this moment, whatever was asked before."""
        self._asked = False
        return self.state(folder)

    def _healed(self, files: RunFiles) -> RunFiles:
        record = files.record
        if record is None or not submitted.abandoned(record) or self.slurm is None:
            return files
        try:
            return replace(files, record=submitted.healed(files.folder, record, self.slurm))
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
        return [run_states.of(each.files, rows, time.time()) if _wordless(each) else each for each in states]


def settled(folder: RunFolder, older: float) -> bool:
    """Whether a run is known, by a look at two files, to have ended more than `older` seconds ago."""
    for end in (folder.finished, folder.result):
        try:
            if time.time() - end.stat().st_mtime > older:
                return True
        except OSError:
            continue
    return False


def others(rows: Mapping[str, Row], known: Sequence[Now], runs: Path) -> list[Row]:
    """This user's jobs that wait or run and are of none of the runs in `runs`, by id."""
    ours = {id for each in known for id in each.jobs}
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


def _forget(now: Now) -> None:
    """Takes away what no script was left to take away: of jobs that ended before they began, as a rule."""
    if now.over and not now.files.local:
        for private in (now.files.folder.secrets, now.files.folder.token):
            private.unlink(missing_ok=True)
