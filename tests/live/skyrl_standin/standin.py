"""Stands in for SkyRL's main_base: `python -m standin key=value …`, inside a job's container.

Its command line is read by the version's own configuration. Then it does with Ray what SkyRL does: it hands
keys of its environment on by ray.init, and runs on every node. What it and Ray's workers see goes to
seen.json in the run folder, keys as hashes. It ends with 3, as a training that failed: Ray's logs are kept.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

KEYS = ("WANDB_API_KEY", "DAYTONA_API_KEY", "HF_TOKEN")
NAMES = (
    "HF_HOME", "HF_HUB_OFFLINE", "WANDB_MODE", "WANDB_PROJECT", "NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME",
    "HTTPS_PROXY", "NO_PROXY", "SLIPWORKS_RANK", "PYTHONPATH",
)  # fmt: skip
RUN = Path("/slipworks-run")


def seen() -> dict[str, Any]:
    keys = {
        name: hashlib.sha256(os.environ[name].encode()).hexdigest() for name in KEYS if name in os.environ
    }
    return {"keys": keys, "env": {name: os.environ.get(name) for name in NAMES}}


def configuration() -> dict[str, Any]:
    """What the version makes of this command line; the wheel is the third of the job's checkouts."""
    how = os.environ["HOW"]
    folder = RUN / "code/2" / ("skyrl_train/config" if how == "hydra" else "")
    program = RUN / "code/0/skyrl_configured.py"
    argv = [sys.executable, program, how, folder, *sys.argv[1:]]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert isinstance(found, dict)
    return found


def main() -> None:
    config = configuration()
    checkpoints = Path(config["trainer"]["ckpt_path"])
    before = sorted(each.name for each in checkpoints.iterdir())
    (checkpoints / "latest_ckpt_global_step.txt").write_text(config["trainer"]["run_name"])
    ray.init(runtime_env={"env_vars": {name: os.environ[name] for name in KEYS if name in os.environ}})
    look = ray.remote(seen)
    nodes = {
        each["NodeID"]: ray.get(
            look.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(each["NodeID"], soft=False)
            ).remote()
        )
        for each in ray.nodes()
    }
    told = {"driver": seen(), "workers": list(nodes.values()), "config": config, "before": before}
    (RUN / "seen.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main()
    sys.exit(3)
