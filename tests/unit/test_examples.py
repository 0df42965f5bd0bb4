"""The examples' dry runs are those that are committed, and say what their clusters need."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from runner import training
from runner.explaining import profiled
from runner.fixing import fixed
from slurm import clusters
from tests.golden import examples
from tests.live.thunderagent.ThunderAgent.__main__ import parser

TEXTS = examples.texts()


def of(folder: str) -> examples.Example:
    (found,) = [each for each in examples.ALL if each.file.startswith(f"{folder}/")]
    return found


@pytest.mark.parametrize("name", TEXTS)
def test_no_drift(name: str) -> None:
    """A file that is missing fails as one that differs does."""
    assert (examples.FOLDER / name).read_text() == TEXTS[name], "make golden"


def test_no_file_without_an_example() -> None:
    assert {file.name for file in examples.FOLDER.iterdir()} == set(TEXTS)


@pytest.mark.parametrize("name", TEXTS)
def test_bash_reads_it(name: str) -> None:
    bash = shutil.which("bash")
    assert bash and subprocess.run([bash, "-n", examples.FOLDER / name], check=False).returncode == 0


@pytest.mark.parametrize("example", examples.ALL, ids=lambda each: each.file)
def test_nothing_private_is_in_a_script(example: examples.Example) -> None:
    private = [text.strip() for text in example.home.values() if text]
    for name in example.clusters:
        made = examples.dry(example, name)
        assert not [text for text in private if text in made.script]
        assert not [secret for secret in made.job.secrets if secret in made.script]


def test_open_instruct_on_isambard() -> None:
    """Whole nodes without the bad ones, the chain, both layers, and what the fixes make of it."""
    made = examples.dry(of("open-instruct-isambard"), "isambard")
    for line in (
        "--gpus-per-node=4", "--ntasks-per-node=1", "--exclusive", "--time=24:00:00",
        "--exclude=nid010798,nid010869,nid010867,nid010874",
    ):  # fmt: skip
        assert f"#SBATCH {line}\n" in made.script
    assert made.plan.restarts == 9 and made.plan.checkpoints == "/checkpoints"
    assert made.plan.workdir == made.plan.code[0] == "/slipworks-run/code/0"
    assert made.plan.command[-1] == training.SEEN_AT == made.plan.env["SLIPWORKS_TRAINING"]
    said = training.of(made.job)
    assert said["num_learners_per_node"] == [1] * made.plan.nodes, "one learner a node"
    assert said["vllm_num_engines"] == made.plan.nodes * 3, "the other GPUs generate"
    assert said["checkpoint_state_dir"].startswith("/checkpoints/"), "where the chain goes on from"
    isambard = clusters.load("isambard")
    plan, _ = fixed(profiled(made.plan, isambard), made.plan)
    assert plan.ray and plan.ray.num_cpus == 32 and plan.ray.node_ip and plan.ray.temp_dir
    assert plan.env["NCCL_NET"] == "AWS Libfabric" and plan.env["NCCL_SOCKET_IFNAME"] == "hsn"
    assert plan.env["HF_DATASETS_CACHE"].startswith("/slipworks-scratch/datasets/")
    assert plan.env["RAY_raylet_start_wait_time_s"] == "120"


def test_skyrl_agent_on_fasrc() -> None:
    made = examples.dry(of("fasrc-mig"), "fasrc")
    for line in ("--partition=gpu_test", "--gres=gpu:1", "--cpus-per-task=8", "--mem=32G"):
        assert f"#SBATCH {line}\n" in made.script
    assert made.batch.container[0] == "podman"
    first, second = made.script.split("#SBATCH hetjob\n")
    assert "--partition=gpu_test" in first and "#SBATCH --partition=test\n" in second
    assert made.batch.sandboxes and made.batch.sandboxes.engine == "podman"
    assert made.plan.sandboxes and not made.plan.env_files
    assert "source=/home/ada/data/r2e-all,target=/data,readonly" in made.script
    assert made.plan.code == ("/slipworks-run/code/0/skyrl-agent",)
    assert "skyrl_agent.integrations.verl.verl_main_ppo" in made.plan.command


def test_the_arms_of_thunderagent(tmp_path: Path) -> None:
    """Each starts the router with the words of its own, which the stand-in takes as the real one would."""
    uv = tmp_path / "uv"
    uv.write_text('#!/bin/sh\nprintf "%s\\n" "$@" >"$SAID"\n')
    uv.chmod(0o755)
    found = []
    for example in examples.COMPARED:
        plan = examples.dry(example, "generic").plan
        (router,) = plan.services
        assert router.nodes == "head" and isinstance(router.run, str)
        env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SAID": str(tmp_path / "said"), **plan.env}
        subprocess.run(["/bin/sh", "-euc", router.run], env=env, check=True)
        words = (tmp_path / "said").read_text().splitlines()
        said = parser().parse_args(words[words.index("ThunderAgent") + 1 :])
        assert router.ready == f"http://{said.host}:{said.port}/health"
        assert plan.env["OPENAI_BASE_URL"] == f"http://{said.host}:{said.port}/v1"
        assert len(said.backends.split(",")) == 4 and said.backend_type == "skyrl" and said.metrics
        assert any(each.source.startswith(said.profile_dir) and each.every for each in plan.artifacts)
        subprocess.run([*plan.command], env={**env, "SLIPWORKS_CHECKPOINTS": "/checkpoints"}, check=True)
        training = (tmp_path / "said").read_text().splitlines()
        assert "trainer.ckpt_path=/checkpoints" in training and "trainer.train_batch_size=99" in training
        assert f"trainer.run_name=thunderagent-{said.router}" in training
        found.append((said.router, said.acting_token_weight))
    assert found == [("default", 1.0), ("tr", 0.1)]


@pytest.mark.parametrize("example", examples.ALL, ids=lambda each: each.file)
def test_the_page_of_an_example_is_its_first_lines(example: examples.Example) -> None:
    """Each says at its beginning how it is submitted, as it stands."""
    text = (examples.EXAMPLES / example.file).read_text()
    assert f"runner submit examples/{example.file}" in text.split("\nname:")[0]
    assert Path(examples.EXAMPLES, example.file).suffix == ".yaml"
