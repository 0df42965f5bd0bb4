"""What was submitted: written before and after each sbatch, so that a crash neither loses nor repeats a job.

Every job carries a comment that names its run and its place in the chain. A record that says "submitting"
when nobody submits any more is healed by asking Slurm for those comments.
"""

from __future__ import annotations

import getpass
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Protocol

from msgspec import Struct
from msgspec.structs import replace

from kit import exact, files, say
from kit.errors import InvalidFileError, LaunchError, SlipworksError
from runner.runs import RunFolder

COMMENT = "slipworks"
PATIENCE = 900.0  # seconds after which a submission on another machine counts as broken off
CHAIN = "chain"
"""The file of the run folder with the ids of its jobs, one a line: the script cancels the rest by it."""


class Queue(Protocol):
    """What is asked of Slurm."""

    def submit(self, script: Path, options: Sequence[str], arguments: Sequence[str] = ()) -> str:
        """The id of the job that sbatch made; `arguments` are the script's."""

    def commented(self, prefix: str) -> Mapping[str, str]:
        """Comment -> job id of this user's jobs whose comment begins so, as far as Slurm remembers."""


class Member(Struct, frozen=True, kw_only=True):
    """One job of a chain. at: when its id was known, UTC."""

    id: str
    comment: str
    at: str


class Record(Struct, frozen=True, kw_only=True):
    """A run's submission.

    host, pid  of the process that submits.
    state   "submitting": begun, and not known to have ended; "submitted": `jobs` are in Slurm's hands;
            "failed": none is, for the reason `why`.
    wanted  how many jobs the chain was to have; `why` also says why it has fewer.
    """

    run_id: str
    name: str
    cluster: str
    user: str
    host: str
    pid: int
    begun: str
    wanted: int = 1
    state: Literal["submitting", "submitted", "failed"] = "submitting"
    jobs: tuple[Member, ...] = ()
    why: str | None = None

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(each.id for each in self.jobs)


def begin(folder: RunFolder, name: str, cluster: str, wanted: int) -> Record:
    """The record of a submission that is about to be made, written."""
    record = Record(
        run_id=folder.run_id, name=name, cluster=cluster, user=_user(), host=platform.node(), pid=os.getpid(),
        begun=_now(), wanted=wanted,
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
    """
    for place in range(len(record.jobs), record.wanted):
        comment = f"{COMMENT}:{record.run_id}:{place}"
        try:
            id = queue.submit(folder.script, _options(comment, record), [str(place + 1)])
        except SlipworksError as refused:
            found = _asked(queue, comment)
            if comment not in found:
                record = _refused(folder, record, refused)
                break
            id = found[comment]
        record = _with(folder, record, Member(id=id, comment=comment, at=_now()))
    if record.state == "submitting":
        record = replace(record, state="submitted")
        _write(folder, record)
    return record


def abandoned(record: Record) -> bool:
    """Whether a submission was broken off: its process is gone, or nobody can still be at it."""
    if record.state != "submitting":
        return False
    if record.host == platform.node():
        return not Path(f"/proc/{record.pid}").exists()
    age = datetime.now(UTC) - datetime.fromisoformat(record.begun)
    return age.total_seconds() > PATIENCE


def healed(folder: RunFolder, record: Record, queue: Queue) -> Record:
    """The record with the jobs that Slurm has of it, where whoever submitted broke off; written if changed.

    Submits nothing: a chain that was cut stays short.
    """
    if not abandoned(record):
        return record
    found = queue.commented(f"{COMMENT}:{record.run_id}:")
    known = {each.comment for each in record.jobs}
    lost = [
        Member(id=id, comment=comment, at=_now()) for comment, id in found.items() if comment not in known
    ]
    jobs = tuple(sorted((*record.jobs, *lost), key=lambda each: int(each.comment.rpartition(":")[2])))
    why = f"the submission broke off after {len(jobs)} of {record.wanted} jobs"
    whole = len(jobs) == record.wanted
    record = replace(record, jobs=jobs, state="submitted" if jobs else "failed", why=None if whole else why)
    _write(folder, record)
    return record


def _options(comment: str, record: Record) -> list[str]:
    """What differs from job to job of a chain; all else is in the script."""
    options = [f"--comment={comment}"]
    if record.jobs:
        options += [f"--dependency=afternotok:{record.jobs[-1].id}", "--kill-on-invalid-dep=yes"]
    return options


def _asked(queue: Queue, comment: str) -> Mapping[str, str]:
    try:
        return queue.commented(comment)
    except SlipworksError:
        return {}


def _refused(folder: RunFolder, record: Record, refused: SlipworksError) -> Record:
    """Raises it where nothing was submitted; else a shorter chain is better than none."""
    if not record.jobs:
        _write(folder, replace(record, state="failed", why=refused.message))
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
