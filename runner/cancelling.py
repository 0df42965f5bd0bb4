"""The end of runs before their time: no further attempt may begin, before what runs is ended."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from kit import files, say
from kit.errors import LaunchError, UsageError
from runner.after import submitting
from runner.meeting import Meeting
from runner.run_states import CANCELLED, Now
from runner.runs import RunFolder
from runner.slurm_rows import Slurm


class Cancelled(Struct, frozen=True, kw_only=True):
    """What was done. jobs: those that Slurm was told to end, in order; done: False where it had ended."""

    run: str
    state: str
    done: bool
    jobs: tuple[str, ...] = ()


def told(done: Cancelled) -> str:
    """In one line."""
    if not done.done:
        return f"{done.run} had ended already: {done.state}"
    return f"{done.run} is cancelled" + (f": job {' '.join(done.jobs)}" if done.jobs else "")


def with_after(folder: RunFolder) -> list[RunFolder]:
    """A run and what comes after it, which ends first: it would begin once the run has ended."""
    after = submitting.of(folder)
    return [after, folder] if after else [folder]


def demand_yes(names: Sequence[str], yes: bool, least: int = 2) -> None:
    """Asks, where `least` runs or more are meant; UsageError where nobody can be asked, or for a no."""
    if yes or len(names) < least:
        return
    import sys

    what = f"{len(names)} run{'s' * (len(names) > 1)} would be cancelled: {', '.join(names)}"
    if not sys.stdin.isatty():
        raise UsageError(what, "runner cancel --yes RUN…")
    print(f"{what}\ngo on? [y/N] ", end="", file=sys.stderr, flush=True)  # noqa: T201
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise UsageError("nothing was cancelled")


def cancel(now: Now, slurm: Slurm | None) -> Cancelled:
    """Ends a run: the whole chain of its jobs, the last one first, so that none takes another's place.

    Idempotent. The word that no attempt may follow is in the run folder before Slurm hears of it, and Slurm
    hears only of jobs that it has shown to be this run's. Where it shows none, or is not reached, the nodes
    are asked through the run folder, and jobs that wait end when they start.
    """
    run = now.files.folder.root.name
    ids = tuple(row.id for row in reversed(now.rows) if row.kind != "ended")
    if now.over and not ids:
        return Cancelled(run=run, state=now.state, done=False)
    if not now.files.folder.finished.exists():
        files.write(now.files.folder.finished, f"{CANCELLED}\n")
    if now.files.local:
        _stop(now)
        return Cancelled(run=run, state=now.state, done=True)
    if slurm is None or not ids:
        _stop(now)
        lack = "is not reached" if slurm is None else "shows none of its jobs here"
        say.say(f"note: Slurm {lack}: jobs of {run} that wait end as soon as they start")
        return Cancelled(run=run, state=now.state, done=True)
    slurm.cancel(ids)
    if not any(row.kind == "active" for row in now.rows):  # else its script takes them away, in its time
        now.files.folder.forget()
    return Cancelled(run=run, state=now.state, done=True, jobs=ids)


def _stop(now: Now) -> None:
    """Asks the nodes of the attempt that runs, by a file that they all look for."""
    last = now.files.last
    if last is None:
        if now.files.local:
            raise LaunchError(
                f"{now.files.folder.root.name} has not begun, so nobody would hear of it",
                f"runner cancel {now.files.folder.run_id}",
            )
        return
    meeting = Meeting(now.files.folder.attempt(last.number).meeting)
    if meeting.ended(0) is None and meeting.stopped() is None:
        meeting.stop(CANCELLED)
