"""The state of a run: from what its files tell and what Slurm says of its jobs. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

from runner import submitted
from runner.run_files import RunFiles, Try
from runner.submitted import Record

State = Literal[
    "submitting", "starting", "pending", "running", "ending",
    "completed", "failed", "cancelled", "lost", "unknown",
]  # fmt: skip
ENDED = ("completed", "failed", "cancelled", "lost")
"""States that no run leaves."""
CANCELLED = "cancelled"
SILENCE = 60.0  # seconds without a sign of life after which a run that nobody else knows of counts as gone

WAITING_JOBS = frozenset({
    "PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD",
    "POWER_UP_NODE", "EXPEDITING",
})  # fmt: skip
ENDED_JOBS = frozenset({
    "COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "DEADLINE", "BOOT_FAIL",
    "PREEMPTED", "REVOKED", "LAUNCH_FAILED", "RECONFIG_FAIL",
})  # fmt: skip
MEANING = {
    "TIMEOUT": "the time limit",
    "NODE_FAIL": "a node failed",
    "OUT_OF_MEMORY": "out of memory",
    "DEADLINE": "its deadline",
    "BOOT_FAIL": "a node did not boot",
    "PREEMPTED": "it was preempted",
}


class Row(Struct, frozen=True, kw_only=True):
    """What Slurm says of one job. Times: seconds since 1970; code: its exit code once it has ended.

    accounted  by the accounting, which keeps comments only where a site wants it.
    """

    id: str
    state: str
    name: str = ""
    reason: str = ""
    nodes: str = ""
    comment: str = ""
    submitted: float | None = None
    started: float | None = None
    ended: float | None = None
    code: int | None = None
    accounted: bool = False

    @property
    def kind(self) -> Literal["waiting", "active", "ended"]:
        """What is neither known to wait nor to have ended has nodes."""
        if self.state in WAITING_JOBS:
            return "waiting"
        return "ended" if self.state in ENDED_JOBS else "active"


class Now(Struct, frozen=True, kw_only=True):
    """A run's state. why: more of it, in a few words; code: the exit code, once there is one that counts.

    started  when its first attempt began; ended: when nothing more could come.
    rows     its Slurm jobs as far as Slurm knows them, in the order of the chain.
    sure     whether its own Slurm was asked, or a file says for good that nothing more can come. Of a run
             that is over and not sure nothing may be taken away.
    """

    files: RunFiles
    state: State
    why: str = ""
    code: int | None = None
    started: float | None = None
    ended: float | None = None
    rows: tuple[Row, ...] = ()
    sure: bool = False

    @property
    def over(self) -> bool:
        return self.state in ENDED

    @property
    def jobs(self) -> tuple[str, ...]:
        return self.files.record.ids if self.files.record else ()


def of(files: RunFiles, rows: Mapping[str, Row] | None, now: float, *, elsewhere: bool = False) -> Now:
    """The state of a run. rows: by job id; None: Slurm was not asked, or did not answer.

    now: by the clock of the file system that the run lies on. elsewhere: the rows are of another cluster than
    the run's, as far as their names tell. Such a Slurm, or one that has another's job by the id of one of the
    run's, is believed only in what bears the run's comments.
    """
    record = files.record
    mine = own_rows(record, rows, elsewhere) if record and rows is not None else ()
    strange = elsewhere or bool(record and rows and any(id in rows for id in record.ids))
    asked = rows is not None and (bool(mine) or not strange)
    if record is None:
        state, why, code = _here(files, now)
    elif asked:
        state, why, code = _by_slurm(files, mine)
    else:
        lack = "Slurm was not asked" if rows is None else f"the Slurm here is not that of {record.cluster}"
        state, why, code = _by_files(files, now, lack)
    begun = [at for at in (*(each.begun for each in files.tries), *(each.started for each in mine)) if at]
    return Now(
        files=files, state=state, why=why, code=code, rows=mine, started=min(begun, default=None),
        ended=_ended_at(files, mine) if state in ENDED else None,
        sure=_is_sure(files, asked),
    )  # fmt: skip


def _is_sure(files: RunFiles, asked: bool) -> bool:
    if files.record is None:
        return files.wrong is None  # else it may be no run of this machine's
    return asked or files.finished is not None or files.record.state == "failed"


def own_rows(record: Record, rows: Mapping[str, Row], elsewhere: bool = False) -> tuple[Row, ...]:
    """Those that are jobs of this run: ids alone are given anew, and by other clusters too.

    A name serves where the accounting keeps no comments, but not elsewhere, where people call jobs the same.
    """
    found = ((each, rows[each.id]) for each in record.jobs if each.id in rows)
    return tuple(
        row for each, row in found
        if row.comment == each.comment
        or (row.accounted and not row.comment and not elsewhere and row.name == record.name)
    )  # fmt: skip


Found = tuple[State, str, int | None]


def _here(files: RunFiles, now: float) -> Found:
    """A run on its submitter's machine, which leaves a result however it ends, unless it is killed."""
    last = files.last
    if files.has_result:
        if files.finished == CANCELLED:
            return "cancelled", "", files.result
        if files.result == 0:
            return "completed", "", 0
        if last and last.asked and (files.result or 0) > 128:
            return "cancelled", last.asked, files.result
        return "failed", _why(last), files.result
    if last and last.beat and now - last.beat < SILENCE:
        return ("ending", last.asked, None) if last.asked is not None else ("running", _doing(last), None)
    if (not last or last.beat is None) and now - files.made < SILENCE:  # an attempt is there before it lives
        return "starting", "", None
    if files.finished == CANCELLED:
        return "cancelled", "", None
    return "lost", "its launcher is gone", None


def _by_slurm(files: RunFiles, mine: tuple[Row, ...]) -> Found:
    """A run of jobs that Slurm was asked about; those that it does not know have ended long ago."""
    if early := _unsubmitted(files):
        return early
    last = files.last
    for row in mine:
        if row.kind == "active":
            if files.finished is not None or (last and last.job == row.id and _is_ending(last)):
                return "ending", files.finished or (last.asked if last and last.asked else ""), None
            if last and last.job == row.id and last.code is None:
                return "running", _doing(last), None
            return "running", "the job starts", None
    waiting = [row for row in mine if row.kind == "waiting"]
    if waiting:
        if files.finished is not None:
            return "ending", files.finished, None
        reasons = [row.reason for row in waiting if row.reason not in ("", "None")]
        after = f", after attempt {last.number} ended with {_coded(last)}" if last else ""
        return "pending", f"{reasons[0] if reasons else waiting[0].state.lower()}{after}", None
    return _concluded(files, mine)


def _by_files(files: RunFiles, now: float, lack: str) -> Found:
    """A run of jobs where Slurm cannot be asked, for the reason `lack`."""
    if early := _unsubmitted(files):
        return early
    last, record = files.last, files.record
    assert record
    if files.finished is not None and (not last or last.code is not None or not _lives(last, now)):
        return _concluded(files, ())
    if last and last.code is None and _lives(last, now):
        if files.finished is not None or _is_ending(last):
            return "ending", files.finished or last.asked or "", None
        return "running", _doing(last), None
    if last and _ended_itself(last) and last.job == (record.ids[-1] if record.ids else None):
        return _concluded(files, ())
    if last:
        return "unknown", f"attempt {last.number} {_left(last)}; {lack}, which knows what follows", None
    return "unknown", f"submitted; {lack}", None


def _unsubmitted(files: RunFiles) -> Found | None:
    record = files.record
    assert record
    if record.state == "failed":
        why = f"not submitted: {record.why or 'no reason is known'}"
        return ("cancelled" if files.finished == CANCELLED else "failed"), why, None
    if record.state == "submitting" and not record.jobs:
        if submitted.abandoned(record):
            return "unknown", "the submission broke off, and it is not known yet what Slurm has of it", None
        return "submitting", "", None
    return None


def _concluded(files: RunFiles, mine: tuple[Row, ...]) -> Found:
    """A run of which nothing is left that could go on."""
    last = files.last
    code = _code(last)
    if files.finished == CANCELLED:
        return "cancelled", "", code
    if files.finished == "succeeded":
        return "completed", "", 0
    row = _decisive(files, mine)
    if row and row.state == "CANCELLED":
        return "cancelled", "in Slurm", code
    if files.finished is not None:
        return "failed", files.finished, code
    if last is None:
        if row is None:
            return "lost", "Slurm knows nothing of it, and it has made no attempt", None
        return "failed", f"before its first attempt: {_meaning(row)}", row.code
    if code == 0:
        return "completed", "", 0
    if row and row.state in MEANING:
        return "failed", MEANING[row.state], code
    if code is None:
        return "lost", f"attempt {last.number} ended without a word", None
    return "failed", _why(last), code


def _decisive(files: RunFiles, mine: tuple[Row, ...]) -> Row | None:
    """The job of the last attempt; without one the first that Slurm knows. What follows it never ran."""
    if files.last and files.last.job:
        return next((row for row in mine if row.id == files.last.job), None)
    return mine[0] if mine else None


def _ended_at(files: RunFiles, mine: tuple[Row, ...]) -> float | None:
    """The latest of what says that it has ended."""
    last, row = files.last, _decisive(files, mine)
    told = [files.result_at, files.finished_at, last.ended if last else None, row.ended if row else None]
    known = [at for at in told if at is not None]
    if not known and last:
        known = [at for at in (last.beat, last.since, last.begun) if at is not None]
    return max(known, default=None)


def _is_ending(last: Try) -> bool:
    return last.code is not None or last.word is not None or last.asked is not None


def _ended_itself(last: Try) -> bool:
    """Whether an attempt ended without being asked to: Slurm puts no such job back into its queue."""
    return last.code is not None and last.code <= 128 and last.asked is None


def _lives(last: Try, now: float) -> bool:
    return last.beat is not None and now - last.beat < SILENCE


def _code(last: Try | None) -> int | None:
    """The batch script's word, else node 0's."""
    if last is None or last.code is not None:
        return last.code if last else None
    return last.word.code if last.word else None


def _coded(last: Try) -> str:
    code = _code(last)
    return "no word" if code is None else f"code {code}"


def _left(last: Try) -> str:
    return f"ended with {_coded(last)}" if last.code is not None or last.word else "gives no sign of life"


def _doing(last: Try) -> str:
    return last.doing or "the nodes start"


def _why(last: Try | None) -> str:
    """The first line of what node 0 said, or of why it was asked to end."""
    told = (last.word.why if last and last.word else "") or (last.asked if last else "") or ""
    return told.splitlines()[0] if told else ""


def _meaning(row: Row) -> str:
    return MEANING.get(row.state, row.state.lower())
