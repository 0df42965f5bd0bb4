"""Into a running node's container: by the node's socket on its machine, else by a step of its job.

The step starts the image once more beside the node's container, for the host may have no Python. That one
shares the host's network too, and so reaches the socket.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from msgspec import Struct

from containers import engine as engines
from containers.engine import Bind, ContainerRun
from kit import exact, process, settings
from kit.errors import InvalidFileError, NotFoundError, SlipworksError, UnsupportedError
from runner import attaching, run_states, slurm_rows, submission, watching
from runner.chosen import Chosen
from runner.run_files import RunFiles, Try
from runner.run_states import Now
from runner.runs import INSIDE, RunFolder
from runner.slurm_rows import Slurm
from slurm import clusters

SHELL = ("/bin/sh", "-c", "command -v bash >/dev/null && exec bash; exec sh")
"""What is run where nothing is asked for: bash, or sh in an image without it."""

# On the node: the site's modules, for the engine may be one, then the engine. $1: how many modules there are.
ENTER = """
if [ "$1" -gt 0 ] || ! command -v "${@:$1+2:1}" >/dev/null; then
    if [ -r /etc/profile ]; then . /etc/profile; fi >&2
fi
for name in "${@:2:$1}"; do
    ! command -v module >/dev/null || module load "$name" >&2 || exit 20
done
shift $(($1 + 1))
[ -w "${XDG_RUNTIME_DIR-}" ] || unset XDG_RUNTIME_DIR
if [ "$1" = apptainer ] && [ "$EUID" -eq 0 ]; then
    while read -r name value; do [ "$name" != CapEff: ] || break; done </proc/self/status
    read -r last </proc/sys/kernel/cap_last_cap
    [ $((16#$value)) -eq $(((1 << (last + 1)) - 1)) ] || export APPTAINER_USERNS=1 # as the node's own has it
fi
exec "$@"
"""


class _Id(Struct):
    run_id: str


def here(folder: RunFolder, rank: int, argv: Sequence[str]) -> int:
    """Runs a command in a node of this machine and returns its exit code; NotFoundError if it is not here."""
    return attaching.call(attaching.address(_run_id(folder), rank), argv or SHELL, rank)


def anywhere(now: Now, rank: int, argv: Sequence[str]) -> int:
    """The same, wherever the node is. From elsewhere this process becomes the step's client."""
    folder, last = now.files.folder, now.files.last
    try:
        return here(folder, rank, argv)
    except NotFoundError as away:
        if now.over or now.state in ("pending", "submitting") or last is None:
            raise watching.ended_error(now, "does not run") from away
        if now.files.local:
            raise NotFoundError(
                f"{away.message}; it {_where(now)}", f"runner status {folder.run_id}"
            ) from away
    step(now.files, last, rank, argv)


def step(files: RunFiles, last: Try, rank: int, argv: Sequence[str]) -> NoReturn:
    """Becomes srun, with a step beside the job's own."""
    if rank >= len(last.hosts) or last.job is None:
        raise NotFoundError(f"which machine node {rank} is on is not known yet", "runner status")
    slurm = slurm_rows.reach()
    way = slurm.client.way
    _demand_own(files, last.job, slurm)
    if not way.shared:
        raise UnsupportedError(
            f"there is no terminal by {way.name}: attach from a login node", f"ssh {way.name.split()[-1]}"
        )
    words = step_words(
        files, last.job, last.hosts[rank], rank, argv, sys.stdin.isatty() and sys.stdout.isatty()
    )
    process.become(way.argv("srun", words), what="start a step", env=way.environment(os.environ))


def _demand_own(files: RunFiles, job: str, slurm: Slurm) -> None:
    """NotFoundError where this Slurm's job of that number is not the run's: it may be another cluster's."""
    rows = run_states.own_rows(files.record, slurm.mine()) if files.record else ()
    if job not in (row.id for row in rows):
        cluster = files.record.cluster if files.record else "?"
        raise NotFoundError(
            f"the Slurm here has no job {job} of {files.folder.root.name}, which was submitted to {cluster}",
            f"runner status {files.folder.run_id}",
        )


def step_words(
    files: RunFiles, job: str, host: str, rank: int, argv: Sequence[str], terminal: bool
) -> list[str]:
    """What srun is told. Pure apart from reading the run's image.json."""
    modules = _modules(files)
    run = _beside(files.folder, rank, argv, terminal)
    container = engines.get(_chosen(files.folder).engine).run_argv(run)
    return [
        f"--jobid={job}",
        "--quiet",
        "--overlap",  # it takes nothing from the job's own step
        "--nodes=1",
        "--ntasks=1",
        f"--nodelist={host}",
        "--mpi=none",
        "--cpu-bind=none",
        "--chdir=/",  # where this was typed need not be there
        *(["--pty"] if terminal else []),
        "bash",
        "-c",
        ENTER,
        "attach",
        str(len(modules)),
        *modules,
        *container,
    ]


def _beside(folder: RunFolder, rank: int, argv: Sequence[str], terminal: bool) -> ContainerRun:
    """A second container of the same image, whose runner calls the node."""
    chosen = _chosen(folder)
    return ContainerRun(
        image=chosen.reference,
        argv=(submission.RUNNER, "attach", "--here", INSIDE, "--node", str(rank), "--", *argv),
        binds=(Bind(folder.root, INSIDE, read_only=True), *submission.layer_binds(chosen)),
        elsewhere=True,
        stdin=True,
        terminal=terminal,
    )


def _chosen(folder: RunFolder) -> Chosen:
    try:
        return exact.decode(folder.image.read_bytes(), Chosen)
    except (OSError, ValueError) as bad:
        raise InvalidFileError(f"cannot read {folder.image}: {bad}") from bad


def _run_id(folder: RunFolder) -> str:
    """Inside a container the folder's name does not tell it."""
    try:
        return exact.decode(folder.launch.read_bytes(), _Id).run_id
    except (OSError, ValueError) as bad:
        raise InvalidFileError(f"cannot read {folder.launch}: {bad}") from bad


def _modules(files: RunFiles) -> tuple[str, ...]:
    own = settings.load(cluster={}).settings.clusters
    try:
        return clusters.load(files.record.cluster, own).modules if files.record else ()
    except SlipworksError:  # the profile has gone since
        return ()


def _where(now: Now) -> str:
    return "starts" if now.state == "starting" else f"is {now.state}, on the machine of its submitter"
