"""Batch scripts on a real Slurm: read as they are meant, and ended in order however a job ends.

The engine is a stand-in here, whose containers do what each test says; test_submit_slurm.py has real ones.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from msgspec import json, structs

from slurm import clusters
from slurm.script import Batch, Options, directive, filename, render
from tests.golden import slurm_scripts
from tests.live.parts_slurm import Slurm, Starter
from tests.live.parts_slurm_daemons import until
from tests.live.parts_slurm_sites import shapes_of
from tests.unit.parts_hostile import values
from tests.unit.parts_script import ENGINE, RANK

pytestmark = [pytest.mark.live, pytest.mark.timeout(300)]
CANARY = "canary-51ac"
BEATS = 'while :; do echo $((n += 1)) >"alive-$rank"; read -r -t 0.3 <> <(:); done &\n'
LASTING = (
    f"trap : TERM\n{BEATS}await stop\nread -r -t 1 <> <(:)\necho orderly\nended 143\nkill %1\nexit 143\n"
)
"""A container that takes a second to end, as a trainer does that writes a checkpoint."""

BLIND = """#!/bin/bash
# srun, but the second node's task gets the script's path wrong. The last five words: bash -c TEXT PATH NUMBER
exec /usr/bin/srun "${@:1:$# - 5}" bash -c '
    [ "$SLURM_NODEID" = 0 ] || set -- "${@:1:3}" /nowhere/job.sbatch 1
    exec "$@"' x "${@: -5}"
"""


@pytest.mark.parametrize("name", slurm_scripts.names())
def test_a_slurm_like_the_sites_takes_the_golden_script(name: str, slurm_like: Starter) -> None:
    """And refuses it where the partition lacks what it asks for: the judgement is a real one."""
    site = clusters.load(name)
    if site.gpus_per_node is None:
        site = structs.replace(site, gpus_per_node=1)
    judge = slurm_like(*shapes_of(site), real=False, cluster=name)
    script = slurm_scripts.FOLDER / f"{name}.sbatch"
    said = judge.run("sbatch", "--test-only", script)
    assert "to start at" in said.stderr
    for more in ("--gres=gpu:77", "--nodes=4000"):
        assert judge.run("sbatch", "--test-only", more, script, check=False).returncode != 0


def test_directives_mean_what_was_said(slurm: Slurm) -> None:
    folder = slurm.shared / "directives"
    folder.mkdir()
    sayable = [value for value in values(CANARY) if "\n" not in value and len(os.fsencode(value)) < 500]
    assert len(sayable) > 200
    for value in sayable:
        logs = Path(folder, value.replace("/", "_"))
        asked = {
            "hold": True,
            "comment": f"c{value}",
            "job-name": f"n{value}",
            "output": filename(logs, "%j"),
        }
        text = "\n".join(["#!/bin/bash", *(directive(*each) for each in asked.items()), "true\n"])
        script = folder / "job.sbatch"
        script.write_bytes(os.fsencode(text))
        job = slurm.sbatch(script)
        # As bytes: text would lose carriage returns.
        show = ["scontrol", "show", "job", str(job)]
        shown = os.fsdecode(subprocess.run(show, env=slurm.env, capture_output=True, check=True).stdout)
        slurm.run("scancel", str(job))
        assert f"\n   Comment=c{value} \n" in shown
        assert f" JobName=n{value}\n" in shown
    assert not (folder / CANARY).exists()


class Runs:
    """Runs of a job with a stand-in engine."""

    def __init__(self, slurm: Slurm, name: str) -> None:
        self.slurm = slurm
        self.root = slurm.shared / f"a run of {name}, it's"
        self.record = self.root / "record"
        self.record.mkdir(parents=True)
        self.engine = self.root / "engine"
        self.engine.write_text(ENGINE)
        self.engine.chmod(0o755)
        self.secrets = self.root / "secrets.json"
        self.secrets.write_text("x")

    def submit(
        self,
        does: str,
        nodes: int = 2,
        options: Options | None = None,
        path: Path | None = None,
        **changes: object,
    ) -> int:
        """The job's id. `does`: what each container does. `path` comes first on the script's PATH."""
        (self.record / "container").write_text(does)
        batch = Batch(
            options={
                "nodes": nodes, "ntasks-per-node": 1, "gpus-per-node": "h100:2", "cpus-per-task": 2,
                "requeue": True, "open-mode": "append", "output": filename(self.root, "slurm-%j.out"),
                **(options or {}),
            },
            run=self.root, nodes=nodes, rank_token=RANK, container=(str(self.engine), "run", "image"),
            temporary=True, secrets=(self.secrets,),
        )  # fmt: skip
        script = self.root / "job.sbatch"
        script.write_bytes(os.fsencode(render(structs.replace(batch, **changes))))
        env = {"RECORD": str(self.record), "RUN": str(self.root)}
        if path:
            env["PATH"] = f"{path}:{os.environ['PATH']}"
        return int(self.slurm.run("sbatch", "--parsable", script, env=env).stdout)

    def file(self, name: str, attempt: int = 1) -> Path:
        return self.root / f"attempt-{attempt}" / name

    def up(self, nodes: int = 2, attempt: int = 1) -> None:
        """All containers give signs of life."""
        for rank in range(nodes):
            until(self.file(f"meeting/alive-{rank}", attempt).exists, f"node {rank} to live", 60, self.log)

    def log(self) -> str:
        return "".join(path.read_text(errors="replace") for path in self.root.glob("slurm-*.out"))

    def code(self, job: int) -> str:
        return self.slurm.show(job)["ExitCode"]


@pytest.fixture
def runs(slurm: Slurm, request: pytest.FixtureRequest) -> Runs:
    return Runs(slurm, request.node.name)


def test_a_container_a_node_with_its_share(runs: Runs) -> None:
    job = runs.submit("ended $((rank == 0 ? 7 : 0)); nproc >cpus-$rank")
    assert runs.slurm.wait_for(job) == "FAILED"
    assert runs.code(job) == "7:0"
    for rank in (0, 1):
        raw = runs.file(f"step-{rank}").read_text()
        step = dict(pair.split("=", 1) for pair in raw.split("\0")[:-1])
        assert step["SLURM_NODEID"] == str(rank)
        assert step["CUDA_VISIBLE_DEVICES"] == "0,1"
        assert step["SLURM_CPUS_PER_TASK"] == "2"
        assert step["SLURM_JOB_ID"] == str(job)
    assert not runs.secrets.exists()
    said = runs.slurm.run("scontrol", "show", "step", f"{job}.1", check=False)
    assert "not found" in said.stdout + said.stderr  # step 0 was the only one


def test_words_of_any_kind(runs: Runs) -> None:
    hostile = values(CANARY)
    job = runs.submit("ended 0", nodes=1, options={"gpus-per-node": "1"},
                      container=(str(runs.engine), *hostile, RANK), temporary=False)  # fmt: skip
    assert runs.slurm.wait_for(job) == "COMPLETED", runs.log()
    arrived = [os.fsdecode(word) for word in (runs.record / "engine-0").read_bytes().split(b"\0")[:-1]]
    assert arrived == ["engine", *hostile, "0", "--attempt", "1", "--rank", "0"]
    assert not [place for place in (Path("/"), runs.root, runs.slurm.shared) if (place / CANARY).exists()]


def test_scancel_lets_the_nodes_end_in_order(runs: Runs) -> None:
    job = runs.submit(LASTING)
    runs.up()
    runs.slurm.run("scancel", str(job))
    assert runs.slurm.wait_for(job) == "CANCELLED"
    until(lambda: "exit code 143" in runs.file("job.log").read_text(), "the script's end", 30)
    runs.slurm.quiet()
    assert [runs.file(f"node-{rank}.log").read_text().count("orderly") for rank in (0, 1)] == [1, 1]
    assert not runs.secrets.exists()


def test_a_requeued_job_has_a_new_attempt(runs: Runs) -> None:
    job = runs.submit(LASTING)
    runs.up()
    runs.slurm.run("scontrol", "requeue", str(job))
    until(lambda: "exit code 143" in runs.file("job.log").read_text(), "the first attempt's end", 30)
    until(lambda: runs.slurm.state(job) == "PENDING", "the job to be queued again", 60)
    assert runs.secrets.exists()
    (runs.record / "container").write_text("ended 0")
    runs.slurm.begin_anew(job)
    assert runs.slurm.wait_for(job, "COMPLETED", seconds=200)
    assert "restart_count=1\n" in runs.file("slurm", 2).read_text()
    assert not runs.secrets.exists()


def test_the_warning_comes_before_the_time_limit(runs: Runs) -> None:
    job = runs.submit(f"{BEATS}await warning; ended 0; kill %1",
                      options={"time": "2", "signal": "B:USR2@100"})  # fmt: skip
    assert runs.slurm.wait_for(job, seconds=200) == "COMPLETED"
    assert runs.file("meeting/warning").exists()
    assert not runs.file("meeting/stop").exists()


def test_a_dead_nodes_srun_is_not_waited_for(runs: Runs) -> None:
    """Whether the script ends the job, or Slurm, which may need minutes to see that a node is gone."""
    slurm = runs.slurm
    job = runs.submit(f"{BEATS}[ $rank = 1 ] && await never; await gone; ended 50; kill %1; exit 50",
                      options={"requeue": False, "no-requeue": True})  # fmt: skip
    runs.up()
    hosts = runs.file("slurm").read_text().split("hosts=")[1].split()
    slurm.kill_node(hosts[1])
    try:
        runs.file("meeting/gone").write_text("")
        until(lambda: slurm.state(job) not in ("RUNNING",), "the job's end", 30, runs.log)
        assert "not all nodes have ended" in runs.log() or slurm.state(job) == "NODE_FAIL"
        assert runs.code(job) != "0:0" or slurm.state(job) == "NODE_FAIL"
    finally:
        slurm.start_node(hosts[1], 60)
        slurm.quiet()


def test_a_node_that_does_not_see_the_run_folder_is_named(runs: Runs) -> None:
    """The second node's task gets a wrong path, as it would by a mount that is missing there."""
    srun = runs.root / "bin/srun"
    srun.parent.mkdir()
    srun.write_text(BLIND)
    srun.chmod(0o755)
    job = runs.submit(f"{BEATS}await stop; ended 143; kill %1", path=srun.parent)
    assert runs.slurm.wait_for(job, seconds=60) == "FAILED", runs.log()
    assert runs.code(job) == "50:0"
    assert "node 1 (n" in runs.log()
    assert "does not see /nowhere/job.sbatch" in runs.log()
    assert json.decode(runs.file("meeting/ended-0").read_bytes())["code"] == 143
