"""`stage:` on a real Slurm: what a login node brings from the hub, a node without any network finds."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import sysconfig
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow
import pytest
from msgspec import json
from pyarrow import parquet

from tests.live.parts_engines import User
from tests.live.parts_jobs import Login, logs
from tests.live.parts_slurm import Slurm
from tests.unit.parts_hub import StandIn, serving

pytestmark = [pytest.mark.live, pytest.mark.timeout(600)]
WEIGHTS = os.urandom(24_000_000)
FILES = {"config.json": b'{"tiny": true}', "model.safetensors": WEIGHTS}
TOKEN = "hf_s3cret"

JOB = """
name: staged
arch: cpu
ray: false
stage:
  models: [Qwen/Tiny]
  datasets: [{id: open-thoughts/tasks, tasks: true}]
binds: ["LIBRARIES:/libraries:ro"]
run: |
  env | grep -E '^(HF_|TRANSFORMERS_O|SLIPWORKS_STAGED)' | sort
  cat /slipworks-run/staged/tasks/task-1/instruction.md
  sha256sum < $SLIPWORKS_STAGED/Tiny/model.safetensors
  PYTHONPATH=/libraries python -c "
  import huggingface_hub as hub
  print('found', hub.hf_hub_download('Qwen/Tiny', 'config.json'), hub.snapshot_download('Qwen/Tiny'))"
"""


def tasks() -> bytes:
    packed, made = io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        entry = tarfile.TarInfo("instruction.md")
        entry.size = len(b"Do it.\n")
        archive.addfile(entry, io.BytesIO(b"Do it.\n"))
    parquet.write_table(
        pyarrow.Table.from_pylist([{"path": "task-1", "task_binary": packed.getvalue()}]), made
    )
    return made.getvalue()


@pytest.fixture
def hub() -> Iterator[tuple[StandIn, str]]:
    made = StandIn()
    made.publish("model", "Qwen/Tiny", FILES, token=TOKEN)
    made.publish("dataset", "open-thoughts/tasks", {"tasks.parquet": tasks()})
    with serving(made) as address:
        yield made, address


@pytest.fixture
def offline(hosts: Slurm, cached_sif: Path, ordinary_user: User, hub: tuple[StandIn, str]) -> Login:
    """A user of a site whose nodes have no internet; these have a network without a way out."""
    shared = hosts.shared / "offline"
    (shared / "config/slipworks").mkdir(parents=True, exist_ok=True)
    scratch = shared / "the scratch"
    scratch.mkdir(exist_ok=True)
    (shared / "config/slipworks/config.toml").write_text(
        f'[clusters.offline]\ninternet = false\nengines = ["apptainer"]\nscratch = "{scratch}"\n'
    )
    for path in (shared, *shared.rglob("*")):
        shutil.chown(path, ordinary_user.name)
    return Login(
        hosts, ordinary_user, cached_sif, SLIPWORKS_CLUSTER="offline", HF_ENDPOINT=hub[1],
        XDG_CONFIG_HOME=str(shared / "config"),
    )  # fmt: skip


def written(user: Login) -> str:
    return JOB.replace("LIBRARIES", sysconfig.get_path("purelib"))


def test_what_was_brought_is_found_without_a_network(offline: Login, hub: tuple[StandIn, str]) -> None:
    """And it came by a command that broke off, and a submission that went on where it was."""
    server, _ = hub
    job = offline.slurm.shared / "job's place/staged.yaml"
    job.parent.mkdir(exist_ok=True)
    job.write_text(written(offline))
    told = offline.type("stage", str(job))
    assert told.code == 31 and "does not give us model Qwen/Tiny (401)" in told.err, told.err
    server.cut, server.after_cut = {"model.safetensors": [15_000_000]}, 503
    told = offline.type("stage", str(job), HF_TOKEN=TOKEN)
    assert told.code == 30 and "answered 503 for model.safetensors" in told.err, told.err
    assert TOKEN not in told.err + told.out
    server.status = {}
    server.asked.clear()
    told = offline.submit(written(offline), HF_TOKEN=TOKEN)
    (get,) = server.gets("model.safetensors")
    assert get.first and get.first >= 10_000_000, "the library hands on 10 MB at once"
    state = offline.ended(told)
    said = logs(told.folder)
    assert state == "COMPLETED", said
    assert "fix hub_offline: nodes have no internet" in said
    for line in (
        "HF_HOME=/slipworks-scratch/huggingface", "HF_HUB_OFFLINE=1", "TRANSFORMERS_OFFLINE=1",
        "HF_DATASETS_OFFLINE=1", "SLIPWORKS_STAGED=/slipworks-run/staged", "Do it.",
        hashlib.sha256(WEIGHTS).hexdigest(), "found /slipworks-scratch/huggingface/hub/models--Qwen--Tiny",
    ):  # fmt: skip
        assert line in said, said
    assert TOKEN not in said and not (told.folder.root / "staged/Tiny").exists(), (
        "it leads somewhere inside only"
    )
    answer = json.decode(offline.type("stage", str(job), "--json", HF_TOKEN=TOKEN).out)
    assert [each["id"] for each in answer] == ["Qwen/Tiny", "open-thoughts/tasks"]
    holding = [each for each in (offline.slurm.shared / "offline").rglob("*") if each.is_file()
               and TOKEN.encode() in each.read_bytes()]  # fmt: skip
    assert not holding


def test_what_the_hub_has_not_is_told_before_a_job_waits(offline: Login, hub: tuple[StandIn, str]) -> None:
    place = offline.slurm.shared / "job's place/none.yaml"
    place.parent.mkdir(exist_ok=True)
    text = "name: none\narch: cpu\nray: false\nrun: 'true'\nstage: {{models: [{}]}}\n"
    for model, code, words in (
        ("Qwen/None", 32, "has no model Qwen/None (404)"),
        ("Qwen/Tiny@v2", 31, "model Qwen/Tiny@v2 (401)"),
    ):
        place.write_text(text.format(model))
        told = offline.type("submit", str(place))
        assert (told.code, told.out) == (code, "") and words in told.err, told.err
    assert not list(offline.runs.glob("none-*")), "no run was begun"


def test_what_was_cleaned_away_meanwhile_ends_the_job_before_it_starts(
    offline: Login, hub: tuple[StandIn, str]
) -> None:
    server, _ = hub
    server.publish("model", "Qwen/Other", {"config.json": b"{}"})
    told = offline.submit(
        "name: late\narch: cpu\nray: false\nrun: echo never\nstage: {models: [Qwen/Other]}\nrestarts: 1\n",
        "sbatch.begin=now+1hour",
    )
    (blob,) = (offline.slurm.shared / "offline").rglob("models--Qwen--Other/blobs/*")
    blob.unlink()
    offline.slurm.run("scontrol", "update", f"JobId={told.jobs[0]}", "StartTime=now")
    assert offline.ended(told) == "FAILED"
    said = logs(told.folder)
    assert offline.code(told) == "50:0", said
    assert (
        "the model Qwen/Other of this job is not whole any more" in said
        and "config.json is not there" in said
    )
    assert "never" not in said.replace("run: echo never", "")
    offline.slurm.quiet()
