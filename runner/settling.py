"""What is left to do for a run of Slurm jobs that has ended: whoever looks first does it.

On the submitter's machine its launcher does this. Here nobody else could: a batch script has no Python,
node 0 may be killed, and only Slurm knows that no further job comes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from msgspec import Struct, json

from kit import files, say
from kit.errors import SlipworksError
from runner import events, throughput
from runner.run_files import RunFiles
from runner.run_states import Now, State
from runner.throughput import Throughput


class Result(Struct, frozen=True, kw_only=True):
    """What result.json says of such a run. attempt: the last one's number; None: it made none."""

    code: int | None
    state: State
    attempt: int | None
    throughput: Throughput | None = None


def settle(now: Now) -> None:
    """Takes the secrets of a run that is over away, and leaves its events and its result in its folder.

    Only if its end is sure. Done anew where more has come since: an ended job can be put back into the queue.
    What cannot be written is told and harms nobody.
    """
    if not now.over or not now.sure or now.files.local:
        return
    now.files.folder.forget()
    last = now.files.last
    made = Result(code=now.code, state=now.state, attempt=last.number if last else None)
    if now.state == "lost" or _is_written(now.files, made):
        return
    try:
        _write(now, made)
    except (OSError, SlipworksError) as bad:
        say.once(f"note: cannot write the results of ended runs: {bad}")


def _is_written(found: RunFiles, made: Result) -> bool:
    with contextlib.suppress(OSError, ValueError):
        there = json.decode(found.folder.result.read_bytes(), type=Result)
        return (there.code, there.state, there.attempt) == (made.code, made.state, made.attempt)
    return False


def _write(now: Now, made: Result) -> None:
    """The result comes last, dated when the run ended: by its time ended runs are found."""
    folder = now.files.folder
    told = [path for each in folder.attempts() for path in sorted(each.folder.glob("events-*.jsonl"))]
    events.merge(told, folder.events)
    if now.files.trajectories:
        measured = throughput.measure(_log(now.files), now.files.trajectories)
        made = Result(code=made.code, state=made.state, attempt=made.attempt, throughput=measured)
    files.write(folder.result, json.format(json.encode(made)))
    if now.ended:
        os.utime(folder.result, (now.ended, now.ended))


def _log(found: RunFiles) -> Iterator[str]:
    """Node 0's log of all attempts: each goes on where the one before ended."""
    for path in (each.log(0) for each in found.folder.attempts()):
        if path.exists():
            with path.open(errors="replace") as lines:
                yield from lines
