"""Runs with what comes after them, for every verb that submits: all are prepared before any is submitted."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec import Struct
from msgspec.structs import replace

from kit import settings
from runner import job as jobs
from runner import queueing
from runner.after import submitting as after
from runner.after.submitting import Next
from runner.job import Job
from runner.queueing import Prepared
from runner.runs import RunFolder
from runner.site import Site
from runner.submitted import Queue, Record


class Ready(Struct, frozen=True, kw_only=True):
    """A run that could be submitted, and what comes after it: nothing was written of either."""

    run: Prepared
    secrets: dict[str, str]
    then: Next | None


def prepared(wanted: Sequence[tuple[Job, RunFolder]], site: Site, *, dry: bool) -> list[Ready]:
    """All of them as the site gets them. dry: to be shown, so neither secrets nor folders need be there.

    Errors as of settings.writable, job.secret_values, queueing.prepared and after.submitting.prepared.
    """
    if not dry:
        settings.writable("runs")
        settings.writable("cache")
    secrets = [{} if dry else jobs.secret_values(job) for job, _ in wanted]
    runs = [queueing.prepared(job, site, folder, dry=dry) for job, folder in wanted]
    then = [after.prepared(each, site, dry=dry) for each in runs]
    return [
        Ready(run=run, secrets=values, then=behind)
        for run, values, behind in zip(runs, secrets, then, strict=True)
    ]


def submit(ready: Sequence[Ready], queue: Queue, tell: Callable[[Prepared, Record], None]) -> None:
    """Stages what all of them need, then submits one after the other, each with what comes after it.

    `tell` hears of each run as soon as it is in the queue: what is told of it stands, whatever ends this.
    """
    staged = [replace(each, run=queueing.staged(each.run)) for each in ready]
    for each in staged:
        record = queueing.submit(each.run, each.secrets, queue)
        tell(each.run, record)
        after.submit(each.then, record, each.run.at.run, queue)
