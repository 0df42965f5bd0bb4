"""Jobs of two sites' profiles that really run: `--cluster`, a user's file, and a Slurm with their partitions.

What sbatch says of every site's script is tested in test_slurm_script.py.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from msgspec.structs import replace

from runner import submitted
from slurm import clusters
from tests.live.parts_engines import User
from tests.live.parts_jobs import Login, environment, logs
from tests.live.parts_slurm import Slurm, Starter
from tests.live.parts_slurm_conf import Shape
from tests.live.parts_slurm_sites import shapes_of

pytestmark = [pytest.mark.live, pytest.mark.timeout(600)]

# What this machine cannot have: podman of ordinary users in a node's namespace, their scratch, their GPUs.
OWN = """
[clusters.vista]
account = "ada-lab"
arch = "cpu"

[clusters.fasrc]
arch = "cpu"
engines = ["apptainer"]
scratch = "{scratch}"
"""


@pytest.fixture(scope="module")
def sites(slurm_like: Starter) -> Slurm:
    """A node of Vista's gh, which Slurm has no GPUs of, and one of FASRC's gpu_test."""
    vista = replace(shapes_of(clusters.load("vista"))[0], count=1, prefix="c610-", gres=None)
    fasrc = Shape(partitions=("gpu_test",), count=1, prefix="holy8a24", gres="gpu:4")
    return slurm_like(vista, fasrc)


@pytest.fixture(scope="module")
def login(sites: Slurm, cached_sif: Path, ordinary_user: User) -> Login:
    folder = sites.shared / "config/slipworks"
    folder.mkdir(parents=True)
    scratch = sites.shared / "the user's scratch"
    scratch.mkdir()
    shutil.chown(scratch, ordinary_user.name)
    (folder / "config.toml").write_text(OWN.format(scratch=scratch))
    return Login(sites, ordinary_user, cached_sif, XDG_CONFIG_HOME=str(folder.parent), SCRATCH=str(scratch))


JOB = """
name: {name}
arch: cpu
gpus: {gpus}
ray: false
checkpoints: true
run: |
  touch "$SLIPWORKS_CHECKPOINTS/seen"
  echo "{name} has ${{CUDA_VISIBLE_DEVICES-no word of GPUs}}"
"""


def test_whole_nodes_without_a_gpu_directive(login: Login) -> None:
    """As on Vista: sbatch is asked for no GPU; time limit, module and folders are the profile's."""
    told = login.submit(JOB.format(name="whole", gpus=0), "--cluster", "vista")
    assert login.ended(told) == "COMPLETED", logs(told.folder)
    shown, found = login.slurm.show(told.jobs[0]), logs(told.folder)
    assert (shown["Partition"], shown["Account"], shown["TimeLimit"]) == ("gh", "ada-lab", "01:00:00"), shown
    assert "TresPerNode" not in shown and shown["NumCPUs"] == "72", shown
    assert "whole has no word of GPUs\n" in found
    assert "tacc-apptainer is not loaded" in found
    record = submitted.read(told.folder)
    assert record and record.cluster == "vista"
    scratch = login.slurm.shared / "the user's scratch/slipworks"
    assert (scratch / "checkpoints" / told.folder.root.name / "seen").exists()


def test_gpus_by_gres(login: Login) -> None:
    """As on FASRC: of a node's GPUs the job gets as many as it asks for, by --gres."""
    told = login.submit(JOB.format(name="part", gpus=2), "--cluster", "fasrc")
    assert login.ended(told) == "COMPLETED", logs(told.folder)
    shown = login.slurm.show(told.jobs[0])
    assert shown["Partition"] == "gpu_test" and shown["TresPerNode"].endswith("gpu:2"), shown
    assert "part has 0,1\n" in logs(told.folder)
    step = environment(told.folder, 0)
    assert step["CUDA_VISIBLE_DEVICES"] == "0,1" and step["SLURMD_NODENAME"] == "holy8a241"
