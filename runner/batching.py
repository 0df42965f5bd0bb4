"""From a job to its batch script on a cluster: options, the node's command, what the node adds of its own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import PurePosixPath

from containers import engine as engines
from kit import files
from kit.nouns import Image
from runner import node_programs, submission
from runner.beside import checks as beside
from runner.beside.asked import SOCKET
from runner.chosen import Chosen
from runner.job import Job
from runner.launch import Launch
from runner.runs import RunFolder
from runner.submission import Places
from slurm import options, script
from slurm.clusters import Cluster
from slurm.options import Asked
from slurm.script import Batch, Beside, Options, Present, Servers

PATIENCE = 35.0
"""Seconds, over the command's grace, that nodes get for their ends: artifacts are copied then, too."""
LAYOUT = "image"
"""The folder of the run folder with an OCI layout for engines that must fetch the image on each node."""


def batch(
    job: Job, plan: Launch, cluster: Cluster, at: Places, chosen: Chosen, said: Options,
    present: tuple[Present, ...] = (), servers: Servers | None = None,
) -> Batch:  # fmt: skip
    """All that goes into the script. Pure apart from what the engine's file asks of this machine: the nodes
    are taken to be like it."""
    engine = engines.get(chosen.engine)
    token = f"@slipworks-rank-{at.run.run_id}@"
    more = submission.further(job, at, chosen, plan.egress)
    run = submission.container(job, at.run, chosen.reference, at.scratch, token, more, elsewhere=True)
    words = engine.run_argv(run)
    have, fetch = _fetching(at.run, chosen)
    fabric = cluster.fabric
    return Batch(
        options=said,
        run=at.run.root,
        nodes=job.nodes,
        container=words,
        rank_token=token,
        remove=engine.remove_argv([run.name] if run.name else [], elsewhere=True),
        modules=cluster.modules,
        words_at=_first_mount(words),
        present=present,
        submits=job.submits,
        fabric=fabric.libraries if fabric else (),
        # Apptainer shows all of the host's /dev.
        devices=fabric.devices if fabric and chosen.engine != "apptainer" else (),
        temporary=run.temporary,
        have=have,
        fetch=fetch,
        patience=plan.grace + PATIENCE,
        restarts=job.restarts,
        secrets=(at.run.secrets, at.run.token),
        beside=_beside(job, chosen.engine),
        sandboxes=servers,
        told_path=any(bind.target == node_programs.ROOT for bind in job.mounts),
    )


def _beside(job: Job, engine: str) -> Beside | None:
    beside.demand(job, engine)
    asked = beside.of(job)
    if asked is None:
        return None
    folder = str(PurePosixPath(SOCKET).parent)
    return Beside(folder=folder, data_root=asked.root or "", at_once=asked.at_once)


def _first_mount(words: Sequence[str]) -> int:
    """Where a node's own mounts go: /tmp and a home come before what lies in them."""
    return next(place for place, word in enumerate(words) if word.partition("=")[0] == "--mount")


def asked(job: Job, cluster: Cluster, folder: RunFolder) -> Asked:
    """What sbatch is told, but for what differs from job to job of a chain. Pure; UnsupportedError for what
    the cluster is known not to give."""
    return options.options(
        cluster, name=job.name, run=folder.root, nodes=job.nodes, gpus=job.gpus, time=job.time,
        warn=job.warn, sbatch=job.sbatch,
    )  # fmt: skip


def write(batch: Batch, folder: RunFolder, image: Image | None) -> None:
    """Puts the script into the run folder, and what nodes fetch the image by."""
    if image is not None:
        from containers import workplace

        workplace.lay_out(image, folder.root / LAYOUT / image.name)
    files.write(folder.script, os.fsencode(script.render(batch)), mode=0o700)


def _fetching(folder: RunFolder, chosen: Chosen) -> tuple[list[str], list[str]]:
    """How a node asks its engine for the image, and gets it; nothing for a file that all nodes see."""
    if chosen.engine == "apptainer" or chosen.name is None:
        return [], []
    command = engines.get(chosen.engine).remove_argv(["x"], elsewhere=True)
    prefix = command[: command.index("rm")]
    if chosen.archive:
        return [*prefix, "image", "inspect", chosen.reference], [*prefix, "load", "--input", chosen.archive]
    # A layout's path may hold no colon, so it is named from where it lies.
    source = f"oci:{chosen.name}"
    pull = ["env", "-C", str(folder.root / LAYOUT), *prefix, "pull", "--quiet", source]
    return [*prefix, "image", "exists", chosen.reference], pull
