"""What was submitted: written before and after each sbatch, so that a crash neither loses nor repeats a job.

Every job carries a comment that names its run and its place in the chain. A record that says "submitting"
when nobody submits any more is healed by asking Slurm for those comments.
"""

from __future__ import annotations

import getpass
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NoReturn, Protocol

from msgspec import Struct
from msgspec.structs import replace

from kit import exact, files, say
from kit.errors import InvalidFileError, LaunchError, NetworkError, SlipworksError
from runner import submitter
from runner.runs import RunFolder

COMMENT = "slipworks"
PATIENCE = 900.0  # seconds in which a submitter that is not seen may live, or Slurm may still take a job
CHAIN = "chain"
"""The file of the run folder with the ids of its jobs, one a line: the script cancels the rest by it."""


class Queue(Protocol):
    """What is asked of Slurm."""

    def submit(self, script: Path, options: Sequence[str], arguments: Sequence[str] = ()) -> str:
        """The id of the job that sbatch made; `arguments` are the script's. NetworkError: no answer came, so
        there may be a job."""

    def commented(self, prefix: str) -> Mapping[str, str]:
        """Comment -> job id of this user's jobs whose comment begins so, as far as Slurm remembers."""


class Member(Struct, frozen=True, kw_only=True):
    """One job of a chain. at: when its id was known, UTC."""

    id: str
    comment: str
    at: str


class Record(Struct, frozen=True, kw_only=True):
    """A run's submission.

    host, pid, namespace, started  the process that submits: see submitter.py.
    begun   when that began; once all is written, when it began to ask Slurm.
    state   "submitting": begun, and not known to have ended; "submitted": `jobs` are in Slurm's hands;
            "failed": none is, for the reason `why`, and no secret is left.
    wanted  how many jobs the chain was to have; `why` also says why it has fewer.
    task    the run's number in a job array, from 1, whose job is named by the comment `array`; 0: in none.
    """

    run_id: str
    name: str
    cluster: str
    user: str
    host: str
    pid: int
    begun: str
    namespace: str = ""
    started: int | None = None
    wanted: int = 1
    state: Literal["submitting", "submitted", "failed"] = "submitting"
    jobs: tuple[Member, ...] = ()
    why: str | None = None
    task: int = 0
    array: str | None = None

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(each.id for each in self.jobs)


def begin(
    folder: RunFolder, name: str, cluster: str, wanted: int, *, task: int = 0, array: str | None = None
) -> Record:
    """The record of a submission that is about to be made, written. It comes before any secret does."""
    own = submitter.own()
    record = Record(
        run_id=folder.run_id, name=name, cluster=cluster, user=_user(), host=own.host, pid=own.pid,
        namespace=own.namespace, started=own.started, begun=_now(), wanted=wanted, task=task, array=array,
    )  # fmt: skip
    _write(folder, record)
    return record


def read(folder: RunFolder) -> Record | None:
    """The record of a run; None for one that was never submitted. InvalidFileError for a damaged one."""
    try:
        return exact.decode(folder.submission.read_bytes(), Record)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as bad:
        raise InvalidFileError(f"cannot read {folder.submission}: {bad}") from bad


def submit(folder: RunFolder, record: Record, queue: Queue) -> Record:
    """Submits what the record lacks of its chain, each job after the one before it; returns what was written.

    A job that Slurm took though sbatch failed (it gave up waiting for the answer) is found by its comment and
    counts. What sbatch refuses is raised if no job of the run is there; a chain that is only shorter is told.
    Where nobody can tell whether there is a job, the record stays "submitting", to be healed.
    """
    if read(folder) != record:
        raise LaunchError(f"{folder.root.name} was given up meanwhile", "runner submit …")
    record = replace(record, begun=_now())
    _write(folder, record)
    for place in range(len(record.jobs), record.wanted):
        comment = f"{COMMENT}:{record.run_id}:{place}"
        try:
            id = queue.submit(folder.script, _options(comment, record), [str(place + 1)])
        except SlipworksError as failure:
            taken = _taken(folder, queue, comment, failure)
            if taken is None:
                record = _refused(folder, record, failure)
                break
            id = taken
        record = _with(folder, record, Member(id=id, comment=comment, at=_now()))
    if record.state == "submitting":
        record = replace(record, state="submitted")
        _write(folder, record)
    return record


def submit_array(script: Path, runs: Sequence[tuple[RunFolder, Record]], queue: Queue) -> tuple[Record, ...]:
    """Submits runs as the tasks of one job array, whose script this is, and returns their records, written.

    As with `submit`, a job that Slurm took though sbatch failed counts. What sbatch refuses is raised.
    """
    first, record = runs[0]
    comment = record.array or ""
    try:
        id = queue.submit(script, [f"--comment={comment}"])
    except SlipworksError as failure:
        taken = _taken(first, queue, comment, failure)
        if taken is None:
            for folder, each in runs:
                failed(folder, each, failure.message)
            raise
        id = taken.partition("_")[0]
    return tuple(_member_of(folder, each, id) for folder, each in runs)


def _member_of(folder: RunFolder, record: Record, id: str) -> Record:
    member = Member(id=f"{id}_{record.task}", comment=record.array or "", at=_now())
    record = replace(record, jobs=(member,), state="submitted")
    _write(folder, record)
    return record


def failed(folder: RunFolder, record: Record, why: str) -> Record:
    """The record of a submission of which no job is in Slurm's hands, written; its secrets are gone."""
    folder.forget()
    record = replace(record, state="failed", why=why)
    _write(folder, record)
    return record


def abandoned(record: Record) -> bool:
    """Whether a submission was broken off: its process is gone, or nobody can still be at it."""
    if record.state != "submitting":
        return False
    alive = submitter.Submitter(
        host=record.host, pid=record.pid, namespace=record.namespace, started=record.started
    ).alive
    return _settled(record) if alive is None else not alive


def healed(folder: RunFolder, record: Record, queue: Queue, *, there: bool = True) -> Record:
    """The record with the jobs that Slurm has of it, where whoever submitted broke off; written if changed.

    Submits nothing: a chain that was cut stays short. That a job is not there counts only after PATIENCE,
    for a slow Slurm takes it later than sbatch waits; and only if this Slurm is the record's own (`there`).
    """
    if not abandoned(record):
        return record
    if record.array:
        return _healed_task(folder, record, queue, record.array, there)
    found = queue.commented(f"{COMMENT}:{record.run_id}:")
    known = {each.comment for each in record.jobs}
    lost = [
        Member(id=id, comment=comment, at=_now()) for comment, id in found.items() if comment not in known
    ]
    jobs = tuple(sorted((*record.jobs, *lost), key=lambda each: int(each.comment.rpartition(":")[2])))
    why = f"the submission broke off after {len(jobs)} of {record.wanted} jobs"
    if len(jobs) == record.wanted:
        now = replace(record, jobs=jobs, state="submitted")
    elif not _settled(record) or not (there or found):
        now = replace(record, jobs=jobs)
    elif not jobs:
        return failed(folder, record, why)
    else:
        now = replace(record, jobs=jobs, state="submitted", why=why)
    if now != record:
        _write(folder, now)
    return now


def _healed_task(folder: RunFolder, record: Record, queue: Queue, array: str, there: bool) -> Record:
    """Of an array every task bears the same comment."""
    if id := queue.commented(array).get(array):
        return _member_of(folder, record, id.partition("_")[0])
    if not there or not _settled(record):
        return record
    return failed(folder, record, "the submission broke off before there was a job")


def _settled(record: Record) -> bool:
    """Whether nothing can come any more of what was asked of Slurm, or of who asked."""
    latest = max(datetime.fromisoformat(at) for at in (record.begun, *(each.at for each in record.jobs)))
    return (datetime.now(UTC) - latest).total_seconds() > PATIENCE


def _options(comment: str, record: Record) -> list[str]:
    """What differs from job to job of a chain; all else is in the script."""
    options = [f"--comment={comment}"]
    if record.jobs:
        options += [f"--dependency=afternotok:{record.jobs[-1].id}", "--kill-on-invalid-dep=yes"]
    return options


def _taken(folder: RunFolder, queue: Queue, comment: str, failure: SlipworksError) -> str | None:
    """The id of a job that Slurm took though sbatch failed; None: it took none. LaunchError: nobody knows."""
    try:
        found = queue.commented(comment)
    except SlipworksError:
        _leave(folder, failure)
    if comment not in found and isinstance(failure, NetworkError):
        _leave(folder, failure)
    return found.get(comment)


def _leave(folder: RunFolder, failure: SlipworksError) -> NoReturn:
    raise LaunchError(
        f"{failure.message}; whether Slurm has taken the job is not known, and nothing is submitted again",
        f"runner status {folder.run_id}, which asks Slurm for it",
    ) from failure


def _refused(folder: RunFolder, record: Record, refused: SlipworksError) -> Record:
    """Raises it where nothing was submitted; else a shorter chain is better than none."""
    if not record.jobs:
        failed(folder, record, refused.message)
        raise refused
    left = record.wanted - len(record.jobs)
    say.say(f"warning: {left} of {record.wanted - 1} restarts could not be submitted: {refused.message}")
    short = replace(record, state="submitted", why=refused.message)
    _write(folder, short)
    return short


def _with(folder: RunFolder, record: Record, member: Member) -> Record:
    if not member.id.isdigit():
        raise LaunchError(f"sbatch answered with {member.id!r}, expected a job's number")
    record = replace(record, jobs=(*record.jobs, member))
    _write(folder, record)
    return record


def _write(folder: RunFolder, record: Record) -> None:
    files.write(folder.submission, exact.encode(record))
    if record.jobs:
        files.write(folder.root / CHAIN, "".join(f"{id}\n" for id in record.ids))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.geteuid())
