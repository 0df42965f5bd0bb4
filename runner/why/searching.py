"""Where known failures are looked for: all that an attempt of a run has left, and what Slurm says of its job.

Of each file no more than the end is read, so that a log of days is looked through in a second or two.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from runner.run_states import Now
from runner.runs import RunFolder, tail
from runner.why import failures
from runner.why.failures import Failure, Place

END = 8 << 20  # bytes at the end of each file
FILES = 300  # of Ray's own logs, of which a big job has thousands: the newest


class Found(Struct, frozen=True, kw_only=True):
    """A known failure in a run. log: its file; None: Slurm itself says so. line: of that file, from 1; None
    where only the file's end was read. times: in how many lines of all logs it shows."""

    failure: Failure
    log: Path | None
    line: int | None
    text: str
    times: int


def search(now: Now, number: int | None = None) -> tuple[list[Found], int]:
    """What is known of an attempt's failures (None: the latest's), and how many logs were looked through."""
    places: dict[str, tuple[Path | None, int | None, Place, int]] = {}
    logs = 0
    for log, raw, whole in _texts(now, number):
        logs += log is not None
        for name, place in failures.seen(raw).items():
            first = places.get(name)
            line = place.line if whole else None
            before = first[3] if first else 0
            kept = first[:3] if first else (log, line, place)
            places[name] = (*kept, before + place.times)
    return [
        Found(failure=each, log=log, line=line, text=place.text, times=times)
        for each in failures.told(places)
        for log, line, place, times in (places[each.name],)
    ], logs


def note(now: Now, number: int | None = None) -> str | None:
    """One line for the end of a failed attempt's log; None where nothing is known of it."""
    last = next((each for each in reversed(now.files.tries) if number in (None, each.number)), None)
    bad = last is not None and last.code not in (None, 0) and now.state != "cancelled"
    if now.state not in ("failed", "lost") and not bad:
        return None
    found, _ = search(now, number)
    if not found:
        return None
    first, *more = found
    others = f" ({len(more)} more)" if more else ""
    return (
        f"note: {first.failure.name}: {first.failure.cause}; {first.failure.fix}{others}: "
        f"runner why {now.files.folder.run_id}"
    )


def _texts(now: Now, number: int | None) -> Iterator[tuple[Path | None, bytes, bool]]:
    """Each log with its text, and whether that is all of it; Slurm's word last."""
    tries = [each for each in now.files.tries if number in (None, each.number)]
    jobs = {each.job for each in tries[-1:]} - {None}
    for log in _logs(now.files.folder, tries[-1].number if tries else None, jobs):
        raw = tail(log, END)
        yield log, raw, len(raw) < END
    said = [f"Slurm says of job {row.id}: {row.state}" for row in now.rows if not jobs or row.id in jobs]
    if said:
        yield None, "\n".join(said).encode(), True


def _logs(folder: RunFolder, number: int | None, jobs: set[str | None]) -> Iterator[Path]:
    """Nodes' own first, then the services', Ray's, the batch script's, Slurm's."""
    if number is not None:
        attempt = folder.attempt(number)
        for pattern in ("node-*.log", "service-*.log", "ray-*.log", "sandboxes.log"):
            yield from sorted(attempt.folder.glob(pattern))
        yield from _rays(sorted(attempt.folder.glob("ray-*/")))
        if attempt.job_log.is_file():
            yield attempt.job_log
    for out in sorted(folder.root.glob("slurm-*.out")):
        if not jobs or out.stem.removeprefix("slurm-") in jobs:
            yield out


def _rays(folders: list[Path]) -> Iterator[Path]:
    """Logs of Ray's daemons and workers, which nodes that failed have kept; the newest of them."""
    found = []
    for folder in folders:
        for above, _, names in os.walk(folder):
            found += [Path(above, name) for name in names if name.endswith((".err", ".out", ".log"))]
    aged = sorted(((path.stat().st_mtime, path) for path in found if path.is_file()), reverse=True)
    yield from (path for _, path in aged[:FILES])
