"""What Slurm's programs are asked for, and their answers as data. Pure.

Names may hold blanks, commas, bars, quotes and line breaks. So fields end in a byte that hardly a name holds
(the unit separator) and records in another; a job whose name does hold it is passed over. Times are asked for
as seconds since 1970, which need no time zone. All that is used here is understood by Slurm 20.11 and newer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from msgspec import Struct

UNIT, RECORD = "\x1f", "\x1e"
TIMES = ("SLURM_TIME_FORMAT", "%s")
"""A variable for programs that answer with times; not for sbatch, which would pass it on to the job."""
DATED = ("squeue", "sacct")


class Queued(Struct, frozen=True, kw_only=True):
    """A job as squeue has it. Times are seconds since 1970; None: not known, or not yet.

    state    Slurm's word: PENDING, RUNNING, COMPLETED, … reason: why it waits, or how it ended.
    nodes    Slurm's list ("n[1-2]"), "" before it starts; script: what was submitted.
    """

    id: str
    name: str
    user: str | None
    state: str
    reason: str
    comment: str
    partition: str
    account: str
    nodes: str
    node_count: str
    submitted: int | None
    started: int | None
    ended: int | None
    limit: str
    dependency: str
    script: str


class Past(Struct, frozen=True, kw_only=True):
    """A job as the accounting has it. exit_code is Slurm's CODE:SIGNAL; `state` may end in "by 1000"."""

    id: str
    user: str | None
    state: str
    exit_code: str
    partition: str
    account: str
    nodes: str
    submitted: int | None
    started: int | None
    ended: int | None
    comment: str
    name: str


class PartitionState(Struct, frozen=True, kw_only=True):
    """A group of equal nodes of a partition. limit: the longest job; gres: "gpu:h100:4(S:0-1)" or ""."""

    name: str
    default: bool
    up: bool
    limit: str
    nodes: int
    cpus: str
    memory: str
    gres: str
    state: str


_QUEUED = {
    "id": "%i", "name": "%j", "user": "%u", "state": "%T", "reason": "%r", "comment": "%k", "partition": "%P",
    "account": "%a", "nodes": "%N", "node_count": "%D", "submitted": "%V", "started": "%S", "ended": "%e",
    "limit": "%l", "dependency": "%E", "script": "%o",
}  # fmt: skip
# The name comes last: it alone may hold a line break.
_PAST = {
    "id": "JobID", "user": "User", "state": "State", "exit_code": "ExitCode", "partition": "Partition",
    "account": "Account", "nodes": "NodeList", "submitted": "Submit", "started": "Start", "ended": "End",
    "comment": "Comment", "name": "JobName",
}  # fmt: skip
_PARTITION = ("%P", "%a", "%l", "%D", "%c", "%m", "%G", "%T")
_TIMES = ("submitted", "started", "ended")
_ID = re.compile(r"(?P<id>[0-9]+)(;\S+)?")
_NOTHING = ("(null)", "N/A", "None assigned", "Unknown", "None")


def queue_words(*, ids: Sequence[str] = (), user: str | None = None) -> list[str]:
    """For squeue: jobs in every state that it still knows of, each task of an array by itself (ID_TASK). user
    None: the caller's, whoever that is."""
    words = ["--noheader", "--array", "--states=all", f"--format={UNIT.join(_QUEUED.values())}{RECORD}"]
    if ids:
        return [*words, f"--jobs={','.join(ids)}"]
    return [*words, f"--user={user}" if user else "--me"]


def queued(text: str) -> tuple[Queued, ...]:
    """A job of several parts once, by its own number: they begin and end together."""
    found = (dict(zip(_QUEUED, each, strict=True)) for each in _records(text, len(_QUEUED)))
    return tuple(Queued(**_typed(each)) for each in found if _is_whole(each))


def history_words(
    *, seconds: int, states: Sequence[str] = (), ids: Sequence[str] = (), user: str | None
) -> list[str]:
    """For sacct: whole jobs that were there in the last `seconds`. user as for squeue."""
    words = ["--noheader", "--allocations", "--parsable2", f"--delimiter={UNIT}"]
    words += [f"--format={','.join(_PAST.values())}", f"--starttime=now-{seconds}seconds", "--endtime=now"]
    if ids:
        words.append(f"--jobs={','.join(ids)}")
    elif user:
        words.append(f"--user={user}")
    if states:
        words.append(f"--state={','.join(states)}")
    return words


def past(text: str) -> tuple[Past, ...]:
    made: list[list[str]] = []
    for line in text.split("\n"):
        fields = line.split(UNIT)
        if len(fields) >= len(_PAST):
            made.append([*fields[: len(_PAST) - 1], UNIT.join(fields[len(_PAST) - 1 :])])
        elif made and line:
            made[-1][-1] += f"\n{line}"
    found = (dict(zip(_PAST, each, strict=True)) for each in made)
    return tuple(Past(**_typed(each)) for each in found if _is_whole(each))


def partition_words() -> list[str]:
    """For sinfo."""
    return ["--noheader", f"--format={UNIT.join(_PARTITION)}{RECORD}"]


def partitions(text: str) -> tuple[PartitionState, ...]:
    return tuple(
        PartitionState(
            name=name.removesuffix("*"), default=name.endswith("*"), up=up == "up", limit=limit,
            nodes=int(nodes), cpus=cpus, memory=memory, gres="" if gres in _NOTHING else gres, state=state,
        )
        for name, up, limit, nodes, cpus, memory, gres, state in _records(text, len(_PARTITION))
    )  # fmt: skip


def job_id(text: str) -> str:
    """Of `sbatch --parsable`: the last line that is ID or ID;CLUSTER and nothing else; "" if there is none.
    A site's own words may stand around it, and numbers in them are no job's."""
    found = [match for line in text.splitlines() if (match := _ID.fullmatch(line.strip()))]
    return found[-1]["id"] if found else ""


def _is_whole(fields: dict[str, str]) -> bool:
    """Of a heterogeneous job's parts (12+0, 12+1) the first stands for the job, and gets its number."""
    fields["id"], plus, part = fields["id"].partition("+")
    return not plus or part == "0"


def _records(text: str, fields: int) -> Iterator[list[str]]:
    for record in text.split(f"{RECORD}\n")[:-1]:
        found = record.split(UNIT)
        if len(found) == fields:
            yield found


def _typed(fields: dict[str, str]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, value in fields.items():
        if name in _TIMES:
            out[name] = int(value) if value.isdecimal() else None
        elif name in ("name", "user", "script"):
            out[name] = value
        else:
            out[name] = "" if value in _NOTHING else value
    return out
