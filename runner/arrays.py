"""Runs that are submitted together, as the tasks of one job array: each is a run as any other."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from kit import files
from runner import batching, code, submission, submitted
from runner.queueing import Prepared
from runner.submitted import Queue, Record
from slurm import array

SCRIPT = "array.sbatch"
"""The array's script, in the first run's folder."""


def script(name: str, runs: Sequence[Prepared], most: int | None = None) -> str:
    """The array's script. Pure. most: how many of the runs may be at it at a time."""
    roots = [each.at.run.root for each in runs]
    return array.render(array.options(runs[0].batch.options, name, len(runs), roots[0], most), roots)


def submit(name: str, runs: Sequence[Prepared], queue: Queue, most: int | None = None) -> tuple[Record, ...]:
    """Writes the run folders, submits them as one array called `name`, and returns their records.

    The runs have no secrets and no chains of restarts. A task that lost its node is requeued by Slurm, and
    goes on in its own folder.
    """
    comment = f"{submitted.COMMENT}:{runs[0].at.run.run_id}:0"
    begun = []
    try:
        for task, ready in enumerate(runs, 1):
            folder = ready.at.run
            listed = [code.listed(each) for each in ready.job.checkouts]
            ready.at.make()
            folder.make()
            record = submitted.begin(folder, name, ready.cluster, 1, task=task, array=comment)
            begun.append((folder, record))
            submission.fill(folder, ready.job, ready.plan, ready.found.chosen, listed)
            batching.write(ready.batch, folder, ready.found.image)
        path = _written(script(name, runs, most), runs[0].at.run.root)
    except BaseException as broken:
        for folder, record in begun:
            submitted.failed(folder, record, str(broken) or "it was interrupted")
        raise
    return submitted.submit_array(path, begun, queue)


def _written(text: str, folder: Path) -> Path:
    path = folder / SCRIPT
    files.write(path, os.fsencode(text), mode=0o700)
    return path
