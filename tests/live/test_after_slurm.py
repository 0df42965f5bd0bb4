"""What comes after a run on a real Slurm, as an ordinary user with the real cpu image: uploads, W&B's logs.

The container's Python gets huggingface_hub from this checkout's own packages.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from importlib import util
from pathlib import Path

import pytest

from runner.after import submitting
from runner.runs import RunFolder
from tests.live.needs import need
from tests.live.parts_engines import User
from tests.live.parts_hub_upload import TOKEN, HubServer
from tests.live.parts_jobs import Login, Told, logs
from tests.live.parts_slurm import Slurm, Starter
from tests.live.parts_slurm_conf import Shape
from tests.live.parts_slurm_daemons import until
from tests.live.parts_wandb import KEY, Wandb

pytestmark = [pytest.mark.live, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def cluster(slurm_like: Starter) -> Slurm:
    """Two nodes on this machine's own network, in two partitions."""
    return slurm_like(Shape(count=2, partitions=("main", "cpu")))


@pytest.fixture(scope="module")
def login(cluster: Slurm, cached_sif: Path, ordinary_user: User) -> Login:
    return Login(cluster, ordinary_user, cached_sif)


def configured(login: Login, text: str) -> str:
    """A place for settings of the user's own that say this."""
    place = login.slurm.shared / f"settings {len(list(login.slurm.shared.glob('settings *')))}"
    (place / "slipworks").mkdir(parents=True)
    (place / "slipworks/config.toml").write_text(text)
    for path in (place, place / "slipworks", place / "slipworks/config.toml"):
        shutil.chown(path, login.name)
    return str(place)


@pytest.fixture
def hub() -> Iterator[HubServer]:
    made = HubServer()
    yield made
    made.close()


TRAINING = """
name: training-{target}
arch: cpu
ray: false
checkpoints: true
binds: ["{packages}:/hub:ro"]
env: {{PYTHONPATH: /hub, HF_ENDPOINT: "{hub}", HF_HUB_DISABLE_XET: "1"}}
after:
  upload: {{repo: org/made, folder: "global_step_*", target: {target}, leave: ["*.pt"], always: {always}}}
run: |
  for step in 9 10; do
    mkdir $SLIPWORKS_CHECKPOINTS/global_step_$step; cd $SLIPWORKS_CHECKPOINTS/global_step_$step
    echo $step >config.json; head -c 9000 /dev/zero >model.safetensors; echo >optim.pt
  done
  until [ -e /slipworks-run/go ]; do sleep 0.2; done
  exit {code}
"""


def test_checkpoints_go_to_the_hub_once_training_has_succeeded(login: Login, hub: HubServer) -> None:
    """Behind it and not beside it; of a run that failed only where that is asked for."""
    need(util.find_spec("huggingface_hub"), "huggingface_hub is not installed: ./setup.sh kit")
    own = configured(login, '[clusters.generic]\ncpu_partition = "cpu"\n')
    packages = sysconfig.get_path("purelib")

    def trained(target: str, code: int, always: str = "false") -> Told:
        job = TRAINING.format(packages=packages, hub=hub.url, target=target, code=code, always=always)
        return login.submit(job, HF_TOKEN=TOKEN, XDG_CONFIG_HOME=own)

    told = [trained("good", 0), trained("bad", 7), trained("always", 7, "true")]
    after = [submitting.of(each.folder) for each in told]
    assert all(after)
    first = RunFolder(Path(str(after[0].root)))  # type: ignore[union-attr]
    job = int((first.root / "chain").read_text())
    shown = login.slurm.run("scontrol", "--oneliner", "show", "job", str(job)).stdout
    assert f"Dependency=afterany:{told[0].jobs[0]}" in shown and "Partition=cpu" in shown, shown
    assert TOKEN not in shown + "".join(each.read_text() for each in first.root.parent.glob("*/job.sbatch"))
    assert oct(first.secrets.stat().st_mode & 0o777) == "0o600"
    for each in told:
        (each.folder.root / "go").touch()
        shutil.chown(each.folder.root / "go", login.name)
    ended = [login.ended(each) for each in told]
    assert ended == ["COMPLETED", "FAILED", "FAILED"], logs(told[0].folder)
    for each in after:
        assert each
        last = int((each.root / "chain").read_text())
        until(lambda last=last: login.slurm.state(last) in ("COMPLETED", "FAILED"), "the upload's end", 120,
              lambda each=each: logs(each))  # type: ignore[misc]  # fmt: skip
        assert login.slurm.state(last) == "COMPLETED", logs(each)
        assert not each.secrets.exists() and TOKEN not in logs(each)
    assert sorted(hub.files) == [
        "always/config.json", "always/model.safetensors", "good/config.json", "good/model.safetensors",
    ]  # fmt: skip
    assert hub.files["good/config.json"] == b"10\n" and len(hub.files["good/model.safetensors"]) == 9000
    assert "nothing is uploaded: the run did not succeed" in logs(after[1])  # type: ignore[arg-type]
    held = [each for each in login.runs.rglob("*") if each.is_file() and TOKEN.encode() in each.read_bytes()]
    assert not held
    login.slurm.quiet()


LOGS = """
import wandb
run = wandb.init(project="grpo", id="fromnode", settings=wandb.Settings(x_disable_stats=True))
for step in range(20):
    run.log({"reward": step / 10})
run.finish()
"""


def test_followed_a_run_s_offline_logs_reach_the_server(login: Login, tmp_path: Path) -> None:
    """Where nodes have no internet; the log is a real one, which the command puts where it is told."""
    need(util.find_spec("wandb"), "wandb is not installed beside the runner: ./setup.sh kit")
    made = login.slurm.shared / "made"
    made.mkdir()
    env = os.environ | {"WANDB_MODE": "offline", "WANDB_DIR": str(made), "HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", LOGS], env=env, check=True, capture_output=True)
    subprocess.run(["chmod", "-R", "a+rX", made], check=True)
    server = Wandb()
    try:
        own = configured(login, "[clusters.generic]\ninternet = false\n")
        job = login.slurm.shared / "offline.yaml"
        job.write_text(
            "name: offline\narch: cpu\nray: false\nbinds: ['./made:/made:ro']\nrun: |\n"
            "  mkdir $WANDB_DIR/wandb; cp -r /made/wandb/offline-run-* $WANDB_DIR/wandb/\n"
            "  echo W and B is $WANDB_MODE; exit 3\n"
        )
        told = login.type(
            "submit", str(job), "--follow", XDG_CONFIG_HOME=own, WANDB_BASE_URL=server.url, WANDB_API_KEY=KEY,
            WANDB_ERROR_REPORTING="false",
        )  # fmt: skip
        assert told.code == 3, told.err
        assert (
            "W and B is offline\n" in told.err
            and "fix wandb_offline: nodes here have no internet" in told.err
        )
        assert server.rewards("fromnode") == [step / 10 for step in range(20)], told.err
        assert "W&B has offline-run-" in told.err and KEY not in told.err
        asked = len(server.asked)
        again = login.type("sync", XDG_CONFIG_HOME=own, WANDB_BASE_URL=server.url, WANDB_API_KEY=KEY)
        assert again.code == 0 and "before" in again.out and len(server.asked) == asked
    finally:
        server.close()
    login.slurm.quiet()
