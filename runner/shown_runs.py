"""Runs for people and for machines: a line each, all of one, or as data. Nothing private is in them. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import Struct

from runner import throughput
from runner.moments import lasted, local, utc
from runner.run_files import Try
from runner.run_states import Now, Row
from runner.tables import Section
from runner.throughput import Throughput

HEADS = ("RUN", "STATE", "JOB", "NODES", "STARTED", "TOOK", "WHAT")
PAST_HEADS = ("RUN", "STATE", "JOB", "NODES", "STARTED", "ENDED", "TOOK", "WHY")
RIGHT = ("NODES", "TOOK")


class JobShown(Struct, frozen=True, kw_only=True):
    """A job of Slurm. state and what follows: None where Slurm did not tell."""

    id: str
    state: str | None = None
    reason: str | None = None
    nodes: str | None = None
    started: str | None = None
    ended: str | None = None
    code: int | None = None


class AttemptShown(Struct, frozen=True, kw_only=True):
    """An attempt. log: node 0's."""

    number: int
    job: str | None
    hosts: tuple[str, ...]
    started: str | None
    ended: str | None
    code: int | None
    why: str | None
    log: str


class RunShown(Struct, frozen=True, kw_only=True):
    """A run. Times are UTC."""

    run: str | None
    id: str | None
    name: str
    folder: str | None
    cluster: str | None
    state: str
    why: str
    code: int | None
    nodes: int | None
    submitted: str | None
    started: str | None
    ended: str | None
    finished: str | None = None
    throughput: Throughput | None = None
    jobs: tuple[JobShown, ...] = ()
    attempts: tuple[AttemptShown, ...] = ()


def whole(now: Now) -> RunShown:
    """All that is told of a run."""
    files, rows = now.files, {row.id: row for row in now.rows}
    return RunShown(
        run=files.folder.root.name, id=files.folder.run_id, name=files.name, folder=str(files.folder.root),
        cluster=files.record.cluster if files.record else "local", state=now.state, why=now.why,
        code=now.code, nodes=files.nodes, submitted=utc(files.made), started=utc(now.started),
        ended=utc(now.ended), finished=files.finished, throughput=files.throughput,
        jobs=tuple(_job(id, rows.get(id)) for id in now.jobs),
        attempts=tuple(_attempt(now, each) for each in files.tries),
    )  # fmt: skip


def stranger(row: Row) -> RunShown:
    """A job of this user's that is no run of this kit."""
    return RunShown(
        run=None, id=None, name=row.name, folder=None, cluster=None, state=row.state.lower(), why=row.reason,
        code=row.code, nodes=None, submitted=utc(row.submitted), started=utc(row.started),
        ended=utc(row.ended), jobs=(_job(row.id, row),),
    )  # fmt: skip


def _job(id: str, row: Row | None) -> JobShown:
    if row is None:
        return JobShown(id=id)
    return JobShown(
        id=id, state=row.state, reason=row.reason or None, nodes=row.nodes or None, started=utc(row.started),
        ended=utc(row.ended) if row.kind == "ended" else None, code=row.code,
    )  # fmt: skip


def _attempt(now: Now, each: Try) -> AttemptShown:
    code = each.code if each.code is not None else each.word.code if each.word else None
    if now.files.local and code is None:
        code = now.files.result
    why = (each.word.why if each.word else "") or each.asked
    return AttemptShown(
        number=each.number, job=each.job, hosts=each.hosts, started=utc(each.begun), ended=utc(each.ended),
        code=code, why=why.splitlines()[0] if why else None,
        log=str(now.files.folder.attempt(each.number).log(0)),
    )  # fmt: skip


def lines(found: Sequence[Now], strangers: Sequence[Row], at: float) -> Iterator[tuple[str, ...]]:
    """The cells below HEADS. at: now."""
    for now in found:
        yield (
            now.files.folder.root.name, _stated(now), _current(now), str(now.files.nodes), local(now.started),
            lasted(now.started, now.ended or (now.started or at) if now.over else at), now.why,
        )  # fmt: skip
    for row in strangers:
        yield (
            f"({row.name})", row.state.lower(), row.id, "", local(row.started), lasted(row.started, at),
            row.nodes or row.reason,
        )  # fmt: skip


def past_lines(found: Sequence[Now]) -> Iterator[tuple[str, ...]]:
    """The cells below PAST_HEADS of runs that have ended."""
    for now in found:
        took = lasted(now.started, now.ended) if now.ended else "-"
        yield (
            now.files.folder.root.name, _stated(now), _current(now), str(now.files.nodes), local(now.started),
            local(now.ended), took, now.why,
        )  # fmt: skip


def _stated(now: Now) -> str:
    return f"{now.state} ({now.code})" if now.state == "failed" and now.code is not None else now.state


def _current(now: Now) -> str:
    """The job that counts: the one that runs, else the first that waits, else the last attempt's; `+2`: those
    that may follow."""
    ids = now.jobs
    if not ids:
        return "-"
    states = {row.id: row.kind for row in now.rows}
    last = now.files.last.job if now.files.last else None
    wanted = next((id for id in ids if states.get(id) == "active"), None)
    wanted = wanted or next((id for id in ids if states.get(id) == "waiting"), None) or last or ids[0]
    after = 0 if now.over or wanted not in ids else len(ids) - ids.index(wanted) - 1
    return f"{wanted}+{after}" if after else wanted


def sections(now: Now, at: float) -> list[Section]:
    """One run as titles with names and values."""
    told = whole(now)
    took = lasted(now.started, now.ended or at) if not now.over or now.ended else "-"
    top = [
        ("state", f"{_stated(now)}: {now.why}" if now.why else _stated(now)),
        ("cluster", told.cluster or "-"),
        ("nodes", str(told.nodes)),
        ("submitted", local(now.files.made)),
        ("started", local(now.started)),
        ("ended", local(now.ended)),
        ("took", took),
        ("folder", told.folder or "-"),
    ]
    if now.files.record and now.files.record.why:
        top.append(("submission", now.files.record.why))
    if now.files.wrong:
        top.append(("damaged", now.files.wrong))
    found: list[Section] = [(told.run or told.name, top)]
    if told.throughput:
        found.append(("throughput", throughput.rows(told.throughput)))
    if told.jobs:
        found.append(("jobs", [(each.id, _job_line(each)) for each in told.jobs]))
    for each, shown in zip(now.files.tries, told.attempts, strict=True):
        found.append((f"attempt {each.number}", list(_attempt_rows(each, shown))))
    return found


def _job_line(job: JobShown) -> str:
    state = job.state.lower() if job.state else "Slurm tells nothing of it now"
    return ", ".join(part for part in (state, job.reason, job.nodes) if part and part != "None")


def _attempt_rows(each: Try, shown: AttemptShown) -> Iterator[tuple[str, str]]:
    if each.job:
        yield "job", f"{each.job} on {' '.join(each.hosts)}"
    yield "started", local(each.begun)
    if each.ended is not None:
        yield "ended", f"{local(each.ended)}, code {shown.code}"
    elif each.doing:
        yield "last event", f"{each.doing}, {local(each.since)}"
    if shown.why:
        yield "why", shown.why
    yield "log", shown.log
