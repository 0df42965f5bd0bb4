"""Trainings with SkyRL on a real Slurm, with a stand-in that reads its command line as SkyRL does.

The cpu image has no SkyRL: its wheels and what reads their configuration ride along as code.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
from pathlib import Path
from typing import Any

import pytest

from runner.skyrl.versions import VERSIONS, Version
from tests.live.parts_jobs import Login, Told, logs
from tests.live.test_skyrl_wheels import fetched, install_readers
from tests.live.test_slurm_secrets import Watch, holders

pytestmark = [pytest.mark.live, pytest.mark.timeout(600)]

HERE = Path(__file__).parent
JOB = """
name: standin
arch: cpu
nodes: 2
ray: {{ready_within: 400}}
secrets: [WANDB_API_KEY, HF_TOKEN]
env: {{HOW: {how}, HF_HOME: /tmp/hf home, HF_HUB_OFFLINE: 1, WANDB_MODE: offline, WANDB_PROJECT: "it's",
      HTTPS_PROXY: "http://192.0.2.1:3128", NO_PROXY: "localhost,10.0.0.0/8"}}
code: ['{code}/standin', {{source: '{code}/readers', limit: 500}}, {{source: '{code}/wheel', imports: []}}]
skyrl:
  version: {version}
  entrypoint: standin
  model: a/b
  data: {{train: ["/data/it's, $HOME `here` \\"now\\".parquet"]}}
  overrides:
    trainer.policy.optimizer_config.lr: 1e-6
    generator.sampling_params.stop: ["</a>", "\\n\\n", "a: b"]
"""


def submitted(user: Login, version: Version, **env: str) -> Told:
    place = user.slurm.shared / f"skyrl {version.version}"
    (place / "standin").mkdir(parents=True)
    for file in (HERE / "skyrl_standin/standin.py", HERE / "skyrl_configured.py"):
        shutil.copy(file, place / "standin")
    fetched(version, place / "wheel")
    install_readers(version, place / "readers")
    for path in (place, *place.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    how = "hydra" if version.hydra else "dotlist"
    return user.submit(JOB.format(how=how, code=place, version=version.version), **env)


def looked_at(told: Told) -> Any:
    assert (told.folder.root / "seen.json").exists(), logs(told.folder)
    return json.loads((told.folder.root / "seen.json").read_text())


def test_trainings_of_both_versions(user: Login) -> None:
    """The words arrive, Ray has on every node what SkyRL does not pass on, keys are on no command line and in
    no file, and the second finds none of the first's checkpoints."""
    keys = {name: f"key-{secrets.token_hex(12)}" for name in ("WANDB_API_KEY", "HF_TOKEN")}
    with Watch(b"key-") as watch:
        told = {}
        for version in VERSIONS:
            told[version] = each = submitted(user, version, **keys)
            user.ended(each, 480)
            assert user.code(each) == "3:0", logs(each.folder)
    hashes = {name: hashlib.sha256(value.encode()).hexdigest() for name, value in keys.items()}
    assert not [raw for raw in watch.seen if any(value.encode() in raw for value in keys.values())]
    for version, each in told.items():
        found = looked_at(each)
        trainer = found["config"]["trainer"]
        assert found["config"]["data"]["train_data"] == ['/data/it\'s, $HOME `here` "now".parquet']
        assert found["config"]["generator"]["sampling_params"]["stop"] == ["</a>", "\n\n", "a: b"]
        assert (trainer["policy"]["optimizer_config"]["lr"], trainer["run_name"]) == (1e-6, "standin")
        assert trainer["ckpt_path"] == "/checkpoints" and trainer["resume_mode"] == "latest"
        assert found["before"] == [], "another run's checkpoints"
        # What SkyRL does not pass on.
        ranks = [worker["env"].pop("SLIPWORKS_RANK") for worker in found["workers"]]
        assert sorted(ranks) == ["0", "1"]
        for worker in found["workers"]:
            assert worker["keys"] == hashes
            assert worker["env"]["HF_HOME"] == "/tmp/hf home" and worker["env"]["WANDB_PROJECT"] == "it's"
            assert worker["env"]["HTTPS_PROXY"] == "http://192.0.2.1:3128" and worker["env"]["NO_PROXY"]
            assert worker["env"]["NCCL_SOCKET_IFNAME"] and worker["env"]["GLOO_SOCKET_IFNAME"]
            assert worker["env"]["HF_HUB_OFFLINE"] == "1" and worker["env"]["WANDB_MODE"] == "offline"
        # 0.4.0 prints the token that its driver has.
        assert ("HF_TOKEN" in found["driver"]["keys"]) is version.hydra
        assert found["driver"]["keys"]["WANDB_API_KEY"] == hashes["WANDB_API_KEY"]
        assert list(each.folder.root.glob("attempt-1/ray-0/*")), "the logs of Ray's daemons"
        assert not [file for value in keys.values() for file in holders(each.folder.root, value.encode())]
        if version.hydra:
            assert (each.folder.root / "hydra/.hydra/overrides.yaml").exists()
