"""What a job may say of sandboxes; cheap to import."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Literal

from msgspec import Struct

from runner import sbatch_option
from runner.bounds import Least, too_small
from runner.sandboxes.settings import Settings
from slurm.options import OTHERS_KEY

MEMORY = re.compile(r"[1-9]\d*[KMGT]?")
OWN = {
    **OTHERS_KEY, "cpus-per-task": "sandboxes.cpus:", "mem": "sandboxes.memory:",
    "partition": "sandboxes.partition:", "output": "", "error": "", "open-mode": "", "array": "",
    "dependency": "", "requeue": "", "no-requeue": "", "begin": "",
}  # fmt: skip
"""Options of sbatch that this part of a job says by a key of its own; "": that the first part says alone."""
OF_JOB = ("engine", "listen", "address", "port")
"""Settings of a server that follow from the job."""
DEFAULTS = Settings()
ENGINES = ("podman", "apptainer")
"""That run sandboxes in a job: without root, and without a daemon that would outlive it."""


class Sandboxes(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Nodes of the job's own for sandboxes: a second part of the job, which Slurm starts and ends with the
    first. The command finds their server by SLIPWORKS_SANDBOX_URL and SLIPWORKS_SANDBOX_KEY, OpenHands'
    clients by their own variables.

    cpus         of one such node: for its server, and for as many sandboxes as server.cpus makes of them.
    nodes        how many; all of them are asked through one address.
    engine       podman or apptainer; left out: the first of the cluster's that is one of them.
    partition    of nodes without GPUs; left out: the cpu_partition of the cluster's profile.
    memory       of one such node, as Slurm writes it: 64G. Left out: as the partition gives it.
    sbatch       further options of sbatch for this part: its qos, its constraint.
    root         a folder of the nodes' own disk for images, logs and what sandboxes write; left out: Slurm's
                 or the site's temporary folder, or /tmp.
    ready_within seconds in which the server must answer; then the job ends.
    server       how the server works: see Settings. Engine, address and port follow from the job.
    """

    cpus: int
    nodes: int = 1
    engine: Literal["podman", "apptainer"] | None = None
    partition: str | None = None
    memory: str | None = None
    sbatch: dict[str, str | bool] = {}
    root: str | None = None
    ready_within: float = 180.0
    server: Settings | None = None

    @property
    def settings(self) -> Settings:
        return self.server or DEFAULTS


def wrong(asked: Sandboxes) -> Iterator[tuple[str, str | None]]:
    """Key and complaint; None where nothing is wrong."""
    server = asked.settings
    least: list[Least] = [
        ("cpus", asked.cpus, 1, "CPUs"),
        ("nodes", asked.nodes, 1, "nodes"),
        ("server.cpus", server.cpus, 1, "CPUs of a slot"),
        ("server.memory", server.memory, 1, "MB of memory"),
        ("server.reserve", server.reserve, 0, "CPUs"),
        ("server.pids", server.pids, 1, "processes"),
        ("server.disk", server.disk, 1, "MB of disk"),
        ("server.queue", server.queue, 0, "seconds"),
        ("server.idle", server.idle, 0, "seconds"),
        ("server.longest", server.longest, 0, "seconds"),
    ]
    yield from too_small(least)
    if not asked.ready_within > 0:
        yield "ready_within", f"found {asked.ready_within:g} seconds, expected more than 0"
    if server.reserve + server.cpus > asked.cpus >= 1:
        needed = f"{server.cpus} CPUs of a slot and {server.reserve} in reserve"
        yield "cpus", f"found {asked.cpus} CPUs, expected more: {needed} make no sandbox"
    for key in OF_JOB:
        if getattr(server, key) != getattr(DEFAULTS, key):
            instead = "sandboxes.engine says it" if key == "engine" else "it follows from the job's nodes"
            yield f"server.{key}", f"found {key} of the server: {instead}"
    for key, text in (("partition", asked.partition), ("root", asked.root)):
        yield key, f"found an empty {key}" if text == "" else None
    if asked.root and not asked.root.startswith("/"):
        yield "root", f"found {asked.root!r}, expected an absolute path"
    if asked.memory is not None and not MEMORY.fullmatch(asked.memory):
        yield "memory", f"found {asked.memory!r}, expected a number such as 64G"
    yield from _wrong_options(asked.sbatch)


def _wrong_options(options: Mapping[str, str | bool]) -> Iterator[tuple[str, str | None]]:
    for key, value in options.items():
        name, at = key.lstrip("-"), f"sbatch.{key}"
        for _, complaint in sbatch_option.wrong(key, value):
            yield at, complaint
        if name in OWN:
            where = (
                f"by {OWN[name]} alone" if OWN[name] else "by the job's own sbatch: both parts are one job"
            )
            yield at, f"sbatch's {name} is said {where}"
