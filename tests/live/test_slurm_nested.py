"""Jobs that submit jobs: from within a running job's container, by the host's own client."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kit import process
from kit.nouns import Platform
from runner import images, mounted_layer
from runner.runs import RunFolder
from tests.live.needs import need
from tests.live.parts_engines import User
from tests.live.parts_jobs import Login, environment, logs
from tests.live.parts_slurm import Slurm
from tests.live.parts_slurm_daemons import until

pytestmark = [pytest.mark.live, pytest.mark.timeout(600)]
SUITE = "bullseye"  # with a C library older than the host's, and without the kit
TOKEN = "t0ken-of-the-users-shell"
PARENT = """
name: parent
image: {image}
ray: false
submits: true
gpus: 2
env: {{OWN: of-the-parent}}
sbatch: {{cpus-per-task: '3'}}
run: |
  cd /slipworks-run
  runner submit "{place}/child.yaml" --json > child.json || exit 11
  runner submit "{place}/endless.yaml" --json > endless.json || exit 12
  runner status endless --json > status.json || exit 13
  runner cancel endless || exit 14
  ldd --version | head -n 1
  until [ -e go ]; do sleep 0.1; done
  exit 5
"""
CHILD = """
name: child
image: {image}
ray: false
submits: true
run: |
  env -0 > /slipworks-run/environment
  cd /slipworks-run
  runner submit "{place}/grandchild.yaml" --json > grandchild.json || exit 11
  exit 3
"""
OTHER = "name: {name}\nimage: {image}\nray: false\nrun: {run}\n"
OURS = {"SLURM_JOB_ID", "SLURM_JOB_NAME", "SLURM_JOB_NODELIST", "SLURM_JOB_NUM_NODES", "SLURM_NNODES",
        "SLURM_NODEID", "SLURM_CONF"}  # fmt: skip
"""What a command is told of its own job."""


@pytest.fixture(scope="module")
def place(slurm: Slurm, rooted: Callable[[str], Path]) -> Path:
    """A folder that users reach, with the image and the job files in it."""
    need(shutil.which("apptainer"), "apptainer is not installed")
    folder = slurm.shared / "it's a place"
    folder.mkdir()
    folder.chmod(0o755)
    process.run(["cp", "-al", rooted(SUITE), folder / "root"], what="link a root")
    image = folder / "older.sif"
    process.run(
        ["apptainer", "build", "--mksquashfs-args=-Xcompression-level 1", image, folder / "root"],
        what="pack an image",
    )
    for name, text in (
        ("parent", PARENT),
        ("child", CHILD),
        ("endless", OTHER.replace("{run}", "sleep 1000")),
        ("grandchild", OTHER.replace("{run}", "id -un > /slipworks-run/who; exit 9")),
    ):
        (folder / f"{name}.yaml").write_text(text.format(name=name, image="./older.sif", place=folder))
    return folder


@pytest.fixture(scope="module")
def login(slurm: Slurm, ordinary_user: User, place: Path) -> Iterator[Login]:
    """A user whose own file has a cluster of their own."""
    cache, own = slurm.shared / "a nested cache", ordinary_user.folder / ".config/slipworks"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLIPWORKS_CACHE", str(cache))
        mounted_layer.made(images.store(), Platform.host(), "apptainer")
    made = Login(slurm, ordinary_user, cache, SLIPWORKS_CLUSTER="mine")
    made.runs.mkdir(exist_ok=True)
    own.mkdir(parents=True, exist_ok=True)
    (own / "config.toml").write_text('[clusters.mine]\npartition = "debug"\nengines = ["apptainer"]\n')
    for path in (made.runs, cache, *cache.rglob("*"), own.parent, own, own / "config.toml"):
        shutil.chown(path, ordinary_user.name)
    yield made
    shutil.rmtree(own)


def test_a_job_submits_a_job_that_submits_a_job(slurm: Slurm, login: Login, place: Path) -> None:
    """Each runs as its user, by their settings, is told of no other job, and has an exit code of its own."""
    told = login.type("submit", str(place / "parent.yaml"), "--json", MY_API_TOKEN=TOKEN)
    assert told.code == 0, told.err
    folder = told.folder
    until(lambda: _over(slurm, told.jobs[0]) or "ldd (" in logs(folder), "the parent's command", 120,
          lambda: logs(folder))  # fmt: skip
    assert not _processes_with(TOKEN), "what a shell exports stays in it"
    (folder.root / "go").touch()
    assert slurm.wait_for(told.jobs[0], seconds=120) == "FAILED", logs(folder)
    assert login.code(told) == "5:0", logs(folder)
    assert "2.31" in logs(folder)

    child, job = _submitted(folder, "child")
    assert slurm.wait_for(job, seconds=240) == "FAILED", logs(child)
    shown = slurm.show(job)
    assert (shown["ExitCode"], shown["Partition"]) == ("3:0", "debug"), logs(child)
    parents, own = environment(folder, 0), environment(child, 0)
    assert (own["SLURM_JOB_ID"], own["SLURM_NNODES"]) == (str(job), "1")
    assert {"SLURM_CPUS_PER_TASK", "SLURM_GPUS_PER_NODE", "CUDA_VISIBLE_DEVICES"} <= parents.keys()
    assert not {"SLURM_CPUS_PER_TASK", "SLURM_GPUS_PER_NODE", "CUDA_VISIBLE_DEVICES"} & own.keys()
    raw = (child.root / "environment").read_bytes().split(b"\0")
    command = dict(each.decode().split("=", 1) for each in raw if each)
    assert {name for name in command if name.startswith(("SLURM", "SBATCH", "SRUN"))} == OURS
    assert command["SLURM_JOB_ID"] == str(job)
    assert "OWN" not in command and "MY_API_TOKEN" not in command

    cancelled, endless = _submitted(folder, "endless")
    assert slurm.wait_for(endless, seconds=60) == "CANCELLED"
    assert cancelled.run_id in (folder.root / "status.json").read_text()

    grandchild, job = _submitted(child, "grandchild")
    assert slurm.wait_for(job, seconds=240) == "FAILED", logs(grandchild)
    assert slurm.show(job)["ExitCode"] == "9:0", logs(grandchild)
    assert login.user and (grandchild.root / "who").read_text().strip() == login.user.name
    slurm.quiet()


def _over(slurm: Slurm, job: int) -> bool:
    return slurm.state(job) not in ("PENDING", "CONFIGURING", "RUNNING")


def _submitted(parent: RunFolder, name: str) -> tuple[RunFolder, int]:
    """What a job in `parent` submitted, by the answer that it kept."""
    from msgspec import json

    answer = json.decode((parent.root / f"{name}.json").read_bytes())
    return RunFolder(Path(answer["run"])), int(answer["jobs"][0])


def _processes_with(text: str) -> list[str]:
    """Those on this machine, nodes' too, that have it in their environment or among their words."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if any(text.encode() in (entry / file).read_bytes() for file in ("environ", "cmdline")):
                    found.append((entry / "cmdline").read_text())
            except OSError:
                continue
    return found
