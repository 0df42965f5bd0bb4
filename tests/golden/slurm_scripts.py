"""The batch script of a typical job on every cluster that there is a file for.

`python -m tests.golden.slurm_scripts` writes the files.
"""

from __future__ import annotations

import os
from pathlib import Path
from unittest.mock import patch

from msgspec import structs

from containers import engine as engines
from containers.engine import Engine
from containers.engines.apptainer import Apptainer
from containers.engines.podman import Podman
from kit import say
from runner import batching, submission
from runner.chosen import Chosen
from runner.job import Job, Mount
from runner.runs import RunFolder
from slurm import clusters, script
from slurm.clusters import Cluster
from tests.golden import written
from tests.golden.commands import USER

FOLDER = Path(__file__).with_name("slurm-scripts")
RUN = RunFolder(Path("/scratch/ada/slipworks/runs/grpo-20261121-120000-0badcafe"))

TYPICAL = Job(
    name="grpo",
    nodes=2,
    run=("python", "-m", "skyrl_train.entrypoints.main_base", "trainer.epochs=1"),
    secrets=("WANDB_API_KEY",),
    binds=(Mount(source="/scratch/ada/models", target="/models", read_only=True),),
    time="12:00:00",
    warn=600,
    checkpoints=True,
    restarts=1,
    sbatch={"mail-type": "FAIL", "mail-user": "ada@example.org"},
)


def names() -> tuple[str, ...]:
    """The clusters that have Slurm."""
    return tuple(name for name in clusters.names() if clusters.load(name).scheduler == "slurm")


def texts() -> dict[str, str]:
    """File name -> text. The same on every machine."""
    return {f"{name}.sbatch": _script(name) for name in names()}


def write() -> None:
    written.write(FOLDER, texts())


def job(cluster: Cluster) -> Job:
    """The typical job with all GPUs of each node, or one where their number is not known."""
    per_node = 1 if cluster.gpus_per_node is None else cluster.gpus_per_node
    return structs.replace(TYPICAL, gpus=per_node, arch=cluster.arch or "h100")


def _script(name: str) -> str:
    cluster = clusters.load(name)
    if cluster.needs_account:
        cluster = structs.replace(cluster, account="ada-lab")
    asked = job(cluster)
    chosen = _chosen(cluster)
    at = submission.places(asked, RUN, Path("/scratch/ada/slipworks"), "/scratch/ada")
    with (
        patch.object(engines, "get", _engine),
        patch.object(os, "geteuid", lambda: 1000),
        patch.object(os, "getegid", lambda: 1000),
        patch.object(say, "once", lambda _: None),  # notes of hosts that are not this one
    ):
        plan = submission.launch(asked, cluster, RUN.run_id, chosen)
        options = batching.asked(asked, cluster, RUN).options
        return script.render(batching.batch(asked, plan, cluster, at, chosen, options))


def _chosen(cluster: Cluster) -> Chosen:
    if cluster.engines[0] == "apptainer":
        return Chosen(reference="/scratch/ada/slipworks/sifs/grpo.sif", engine="apptainer")
    reference = "localhost/slipworks/grpo:grpo-amd64-0123456789ab"
    return Chosen(reference=reference, engine=cluster.engines[0], name="grpo")


def _engine(name: str) -> Engine:
    return {"apptainer": Apptainer, "podman": Podman}[name](None, USER)


if __name__ == "__main__":
    write()
