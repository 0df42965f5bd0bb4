"""The batch script that a dry run of each example prints, on the clusters that it is for. A new one is a row.

`python -m tests.golden.examples` writes the files. What an example's user puts in (checkouts, data, keys) is
made in a home of its own, which goes by the name of /home/ada.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from unittest.mock import patch

from msgspec import Struct, structs

from containers import engine as engines
from kit import say
from runner import arms, batching, chosen, job, mounted_layer, submission
from runner.job import Job
from runner.launch import Launch
from runner.runs import RunFolder
from runner.sandboxes import in_job
from slurm import clusters, script
from slurm.clusters import Cluster
from slurm.script import Batch
from tests.golden import written
from tests.golden.slurm_scripts import _engine

FOLDER = Path(__file__).with_name("example-scripts")
EXAMPLES = Path(__file__).parents[2] / "examples"
HOME, CACHE, SCRATCH = "/home/ada", "/scratch/ada/slipworks", "/scratch/ada"
OURS = re.compile(r"(/images/sif/[\w-]+)-[0-9a-f]{12}(?=\.sif)")
"""An image of ours, whose key follows from the kit's own sources: another with every change of them."""
LAYER = Path(CACHE, "layers/slipworks-0123456789ab.sqfs")
AGENT = Path(CACHE, "layers/agent-server-0123456789ab")


class Example(Struct, frozen=True, kw_only=True):
    """An example's job file and the clusters that it is for; home: what is in its user's, path -> text, or
    None for a folder. arm: which of its folder's (see runner/arms.py). overrides: by cluster, what is typed
    behind the file."""

    file: str
    clusters: tuple[str, ...]
    arm: str | None = None
    home: Mapping[str, str | None] = {}
    overrides: Mapping[str, tuple[str, ...]] = {}

    @property
    def name(self) -> str:
        """Of its folder, and of its file and its arm where they say which."""
        folder, _, file = self.file.partition("/")
        return "-".join(filter(None, (folder, "" if file == "job.yaml" else Path(file).stem, self.arm)))


COMPARED = tuple(
    Example(
        file="thunderagent/job.yaml",
        clusters=("generic",),
        arm=arm,
        home={"ThunderAgent/examples/rl_training/SkyRL/skyrl-train": None},
    )
    for arm in ("default", "tr")
)
SITES = ("jupiter", "jureca", "juwels", "lonestar", "vista")
GPUS = {"lonestar": ("gpus=3",), "vista": ("gpus=1", "nodes=4")}
SKYRL = (
    Example(file="skyrl-gsm8k/job.yaml", clusters=SITES, overrides=GPUS),
    Example(file="skyrl-terminal-bench/job.yaml", clusters=SITES, overrides=GPUS, home={"SkyRL": None}),
    Example(
        file="skyrl-terminal-bench/old.yaml", clusters=("jureca",), home={"SkyRL-train/skyrl-train": None}
    ),
    Example(
        file="skyrl-mini-swe/job.yaml",
        clusters=SITES,
        overrides=GPUS,
        home={"SkyRL": None, "swe_gym_subset": None},
    ),
)
ALL = (
    *SKYRL,
    *COMPARED,
    Example(
        file="open-instruct-isambard/job.yaml",
        clusters=("isambard",),
        home={"src/open-instruct": None},
    ),
    Example(
        file="fasrc-mig/job.yaml",
        clusters=("fasrc",),
        home={"src/SkyRL/skyrl-agent": None, "data/r2e-all": None},
    ),
)


class Dry(Struct, frozen=True, kw_only=True):
    """What a dry run of an example makes on a cluster."""

    job: Job
    plan: Launch
    batch: Batch
    script: str


def texts() -> dict[str, str]:
    """File name -> text. The same on every machine."""
    return {f"{each.name}-{name}.sbatch": dry(each, name).script for each in ALL for name in each.clusters}


def write() -> None:
    written.write(FOLDER, texts())


def dry(example: Example, name: str) -> Dry:
    """The example as `runner submit --dry-run --cluster NAME` makes it, for a user who has what it names."""
    with tempfile.TemporaryDirectory() as home:
        for path, text in example.home.items():
            place = Path(home, path)
            (place if text is None else place.parent).mkdir(parents=True, exist_ok=True)
            if text is not None:
                place.write_text(text)
        with (
            patch.dict(os.environ, {"HOME": home}),
            patch.object(engines, "get", _engine),
            patch.object(os, "geteuid", lambda: 1000),
            patch.object(os, "getegid", lambda: 1000),
            patch.object(say, "once", lambda _: None),  # notes of hosts that are not this one
            patch.object(mounted_layer, "path_of", lambda store, platform, engine: _layer(engine)),
        ):
            return _dry(example, name, home)


def _dry(example: Example, name: str, home: str) -> Dry:
    cluster = clusters.load(name)
    if cluster.needs_account:
        cluster = structs.replace(cluster, account="ada-lab")
    asked_job = _job(example, name, cluster)
    engine = chosen.engine_of(asked_job, cluster, None)
    found = chosen.of(asked_job, cluster, engine, dry=True).chosen
    run = RunFolder(Path(SCRATCH, "slipworks/runs", f"{asked_job.name}-20261121-120000-0badcafe"))
    at = submission.places(asked_job, run, Path(CACHE), SCRATCH)
    plan = submission.launch(asked_job, cluster, run.run_id, found)
    asked = batching.asked(asked_job, cluster, run)
    servers = None
    if asked_job.sandboxes:
        layers = _layer("podman"), AGENT
        servers = in_job.servers(asked_job, cluster, name, run.root, *layers, Path(CACHE))
    batch = batching.batch(asked_job, plan, cluster, at, found, asked.options, servers=servers)
    text = OURS.sub(r"\1-0123456789ab", script.render(batch)).replace(home, HOME)
    return Dry(job=asked_job, plan=plan, batch=batch, script=text)


def _job(example: Example, cluster_name: str, cluster: Cluster) -> Job:
    path = EXAMPLES / example.file
    if example.arm is None:
        return job.load(path, example.overrides.get(cluster_name, ()), cluster)
    found = arms.loaded(arms.read(path.parent), cluster=cluster)
    return next(arm.job for arm in found if arm.name == example.arm)


def _layer(engine: str) -> Path:
    return LAYER if engine == "apptainer" else LAYER.with_suffix("")


if __name__ == "__main__":
    write()
