"""What a run's own files tell of it, as data. Reads small files alone, and nothing that is private."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import Any

from msgspec import DecodeError, Struct, json

from kit import exact
from kit.errors import InvalidFileError
from runner import moments, submitted
from runner.meeting import Ended, Meeting
from runner.runs import Attempt, RunFolder, tail
from runner.submitted import Record
from runner.throughput import Throughput

NAMED = re.compile(r".+-(\d{8}-\d{6})-([0-9a-f]{8})")
"""A run folder's name: the job's, when it was made, and the run's id."""
_CLOSED = re.compile(rb"^attempt \d+ ended with exit code (\d+)$", re.MULTILINE)
_END = 4096  # bytes at the end of a log in which its last lines are looked for


class Try(Struct, frozen=True, kw_only=True):
    """One attempt. Times: seconds since 1970, by the file system's clock.

    job     its Slurm job; hosts: its nodes, by rank. None, (): without Slurm.
    word    what node 0 said of its end; code: with what the batch script ended, after which nothing comes.
    asked   why all nodes were asked to end.
    beat    the last sign of life of a node or of the launcher.
    doing   the last that node 0 told of itself, and since: when.
    """

    number: int
    job: str | None = None
    hosts: tuple[str, ...] = ()
    begun: float | None = None
    ended: float | None = None
    word: Ended | None = None
    code: int | None = None
    asked: str | None = None
    beat: float | None = None
    doing: str | None = None
    since: float | None = None


class RunFiles(Struct, frozen=True, kw_only=True):
    """One run. record: None for a run on the submitter's own machine. result: the exit code in result.json.

    trajectories, throughput  what the job asks to be measured by, and what was measured.
    wrong  what of it cannot be read.
    """

    folder: RunFolder
    name: str
    nodes: int
    made: float
    record: Record | None = None
    finished: str | None = None
    finished_at: float | None = None
    has_result: bool = False
    result: int | None = None
    result_at: float | None = None
    trajectories: int | None = None
    throughput: Throughput | None = None
    tries: tuple[Try, ...] = ()
    wrong: str | None = None

    @property
    def last(self) -> Try | None:
        return self.tries[-1] if self.tries else None

    @property
    def local(self) -> bool:
        return self.record is None


class _Asked(Struct):
    trajectories: int


class _Result(Struct):
    """result.json, as a launcher or settling.py leaves it."""

    code: int | None = None
    throughput: Throughput | None = None


class _Job(Struct):
    """Of job.json what is shown; the rest may be private."""

    name: str = "?"
    nodes: int = 1
    throughput: _Asked | None = None


def is_run(path: Path) -> bool:
    """Whether a folder is a run's."""
    folder = RunFolder(path)
    return folder.launch.is_file() or folder.job.is_file()


def read(folder: RunFolder) -> RunFiles:
    """All that the files tell; what is not there, or is being made, is left out."""
    job, wrong, record = _Job(), None, None
    try:
        job = exact.decode(folder.job.read_bytes(), _Job)
    except (OSError, ValueError):
        wrong = f"cannot read {folder.job}"
    try:
        record = submitted.read(folder)
    except InvalidFileError as bad:
        wrong = bad.message
    result, told = _result(folder.result)
    finished = _text(folder.finished)
    begun = moments.since(record.begun) if record else None
    return RunFiles(
        folder=folder, name=job.name, nodes=job.nodes, record=record, wrong=wrong,
        made=begun or _when(folder.job) or _when(folder.root) or 0.0,
        finished=finished, finished_at=_when(folder.finished) if finished is not None else None,
        has_result=told, result=result.code, result_at=_when(folder.result) if told else None,
        trajectories=job.throughput.trajectories if job.throughput else None, throughput=result.throughput,
        tries=tuple(read_try(each) for each in folder.attempts()),
    )  # fmt: skip


def read_try(attempt: Attempt) -> Try:
    """What an attempt's folder tells."""
    said = dict(line.partition("=")[::2] for line in (_text(attempt.slurm) or "").splitlines())
    meeting = Meeting(attempt.meeting)
    word, code = meeting.ended(0), _closed(attempt.job_log)
    begun = [at for who in ("job", "launcher", "0") if (at := _event(attempt.events(who), first=True)[0])]
    since, doing = _event(attempt.events("0"), first=False)
    ended = None
    if code is not None:
        ended = _when(attempt.job_log)
    elif word is not None:
        ended = _when(attempt.meeting / "ended-0")
    return Try(
        number=int(attempt.folder.name.rpartition("-")[2]),
        job=said.get("job_id") or None, hosts=tuple(said.get("hosts", "").split()),
        begun=begun[0] if begun else _when(attempt.slurm), ended=ended, word=word, code=code,
        asked=meeting.stopped(), beat=_beat(attempt.meeting), doing=doing, since=since,
    )  # fmt: skip


def _closed(log: Path) -> int | None:
    """The exit code that the batch script told last of all; None: it has not."""
    found = _CLOSED.findall(tail(log, _END))
    return int(found[-1]) if found else None


def _beat(meeting: Path) -> float | None:
    latest: list[float] = []
    with contextlib.suppress(OSError):
        for entry in os.scandir(meeting):
            if entry.name.startswith("alive-"):
                latest.append(entry.stat().st_mtime)
    return max(latest, default=None)


def _event(path: Path, *, first: bool) -> tuple[float | None, str | None]:
    """When the first or last event of a file was, and which."""
    if first:
        with contextlib.suppress(OSError), path.open("rb") as file:
            return _parsed(file.readline())
        return None, None
    whole = [line for line in tail(path, _END).splitlines() if line.endswith(b"}")]
    return _parsed(whole[-1]) if whole else (None, None)


def _parsed(line: bytes) -> tuple[float | None, str | None]:
    with contextlib.suppress(DecodeError, KeyError, TypeError, ValueError):
        event: dict[str, Any] = json.decode(line)
        return float(event["at"]), str(event["event"])
    return None, None


def _result(path: Path) -> tuple[_Result, bool]:
    """What it says, and whether there is a result at all."""
    with contextlib.suppress(OSError, DecodeError):  # of another form, too
        return json.decode(path.read_bytes(), type=_Result), True
    return _Result(), path.exists()


def _text(path: Path) -> str | None:
    with contextlib.suppress(OSError):
        return path.read_bytes().decode("utf-8", "replace").strip()
    return None


def _when(path: Path) -> float | None:
    with contextlib.suppress(OSError):
        return path.stat().st_mtime
    return None
