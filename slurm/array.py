"""The script of a job array whose tasks are runs of their own, each with a script of slurm/script.py's.

It only finds the task's run and becomes its script: so a task lives, is requeued, watched and cancelled as
any other run. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kit.errors import InvalidFileError
from kit.shell import quote
from slurm.script import Options, directive, filename

LOG = "array-%A_%a.out"
"""What a task says before it has found its run, in the first run's folder."""


def options(one: Options, name: str, count: int, folder: Path, most: int | None = None) -> Options:
    """sbatch's options of the array, from those of one of its runs. most: tasks that may run at a time."""
    limit = f"%{most}" if most else ""
    return {**one, "job-name": name, "array": f"1-{count}{limit}", "output": filename(folder, LOG)}


def render(options: Options, runs: Sequence[Path]) -> str:
    """The script. InvalidFileError for what no script can carry."""
    if odd := next((run for run in runs if "\r" in str(run)), None):
        raise InvalidFileError(f"sbatch takes no script with a carriage return in it: {str(odd)!r}")
    lines = [directive(name, value) for name, value in options.items() if value is not False]
    return "\n".join([
        "#!/bin/bash",
        *lines,
        "#",
        "# A job array of slipworks: each task is a run of its own, with its own folder and script.",
        "",
        "runs=(",
        *(f"    {quote(str(run))}" for run in runs),
        ")",
        "run=${runs[SLURM_ARRAY_TASK_ID - 1]}",
        'if [ ! -r "$run/job.sbatch" ]; then',
        '    echo "slipworks: error: ${SLURMD_NODENAME-} does not see $run: all nodes must" >&2',
        "    exit 50",
        "fi",
        'exec bash "$run/job.sbatch" 1 >>"$run/slurm-$SLURM_JOB_ID.out" 2>&1',
        "",
    ])  # fmt: skip
