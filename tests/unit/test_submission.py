"""The plan of a job on a cluster: what of the profile and of the job a node learns."""

from __future__ import annotations

from pathlib import Path

import pytest

from containers.engines.apptainer import Apptainer
from kit.errors import UnsupportedError
from runner import cli, images, submission
from runner.egress import plan
from runner.job import Job
from runner.launch import Launch
from slurm import clusters
from slurm.clusters import Cluster
from tests.golden.commands import USER

JOB = Job(name="j", arch="cpu", run=("true",), nodes=2, env={"MINE": "1"})


def planned(job: Job, cluster: Cluster) -> Launch:
    return submission.launch(job, cluster, "0badcafe")


def test_a_node_learns_what_the_profile_knows_of_its_network() -> None:
    isambard = clusters.load("isambard")
    plan = planned(JOB, isambard)
    assert plan.interface == "hsn0" and plan.interfaces == {"nccl": "hsn"}
    assert plan.fabric == isambard.fabric and plan.fabric.kind == "slingshot"
    assert plan.ray_cpus == 32 and plan.nodes_here == 1 and not plan.attended
    assert plan.env["RAY_raylet_start_wait_time_s"] == "120" and plan.env["MINE"] == "1"


def test_the_jobs_word_is_the_last() -> None:
    plan = planned(JOB, Cluster(summary="", scheduler="slurm", environment={"MINE": "site's", "SITE": "2"}))
    assert plan.env == {"MINE": "1", "SITE": "2"}


def test_without_ray_several_nodes_run_the_command() -> None:
    slurm = clusters.load("generic")
    alone = Job(name="j", arch="cpu", run=("true",), ray=False)
    assert planned(JOB, slurm).ray and not planned(JOB, slurm).everywhere
    assert not planned(alone, slurm).everywhere
    both = planned(Job(name="j", arch="cpu", run=("true",), ray=False, nodes=2), slurm)
    assert both.everywhere and both.ray is None


def test_gpus_cannot_be_shared_by_nodes_of_one_machine() -> None:
    job = Job(name="j", arch="h100", run=("true",), nodes=2, gpus=1)
    assert planned(job, clusters.load("generic")).gpus == 1
    with pytest.raises(UnsupportedError, match="2 nodes with 1 GPUs each cannot share this machine"):
        planned(job, clusters.load("local"))


def test_a_dry_run_here_has_what_the_run_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The mounts of key and known hosts are in its commands; what would be staged is told."""
    key, known = tmp_path / "key", tmp_path / "known"
    for each in (key, known):
        each.write_text("k")
    own = tmp_path / "config/slipworks/config.toml"
    own.parent.mkdir(parents=True)
    own.write_text(
        f'[clusters.local]\negress = {{host = "gw", user = "me", key = "{key}", known_hosts = "{known}"}}\n'
    )
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("SLIPWORKS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(images, "runs", lambda name: Apptainer(None, USER))
    (tmp_path / "job.yaml").write_text(
        "name: j\nrun: 'true'\nimage: a.example/b:c\negress: true\nstage: {models: [a/b]}\n"
    )
    assert cli.main(["submit", str(tmp_path / "job.yaml"), "--cluster", "local", "--dry-run"]) == 0
    told = capsys.readouterr()
    for source, target in ((key, plan.KEY), (known, plan.KNOWN)):
        assert f"{source}" in told.out and target in told.out
    hub = tmp_path / "cache/job-caches/huggingface"
    assert f"note: model a/b would be staged in {hub}" in told.err and not hub.exists()
