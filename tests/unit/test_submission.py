"""The plan of a job on a cluster: what of the profile and of the job a node learns."""

from __future__ import annotations

import pytest

from kit.errors import UnsupportedError
from runner import submission
from runner.job import Job
from runner.launch import Launch
from slurm import clusters
from slurm.clusters import Cluster

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
