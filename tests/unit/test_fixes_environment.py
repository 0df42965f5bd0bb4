"""What the fixes make of environments, interfaces, limits and installed packages."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
from msgspec import json
from msgspec.structs import replace

from runner import facts as facts_
from runner import fixing, interfaces, limits, python_packages, variables
from runner.facts import Interface
from runner.fixing import facts_like, launch_like
from runner.launch import Launch
from runner.python_packages import Nccl
from runner.runs import RunFolder

GPU = ("GPU 0: H100 (UUID: GPU-00000000-0000-0000-0000-000000000000)",)


def fixed(facts: facts_.Facts, launch: Launch) -> Launch:
    return fixing.fixed(facts, launch)[0]


# The environment


def test_only_what_nobody_meant_is_dropped() -> None:
    env = dict.fromkeys(
        ["PATH", "FOO", "MODULEPATH", "WANDB_PROJECT", "NCCL_DEBUG", "FI_PROVIDER", "SLURM_NTASKS", "MINE_A"],
        "1",
    )
    facts = facts_like(env=env, foreign=tuple(sorted(set(env) - {"FOO"})))  # FOO is the image's
    assert fixed(facts, launch_like()).drop == ("MINE_A", "MODULEPATH", "SLURM_NTASKS")
    assert fixed(facts, launch_like(keep=("MINE_*", "MODULEPATH"))).drop == ("SLURM_NTASKS",)
    reason = next(fix.reason for fix in fixing.fixed(facts, launch_like())[1] if fix.name == "environment")
    assert "MODULEPATH" in reason and "WANDB" not in reason


def test_the_users_own_is_never_dropped() -> None:
    facts = facts_like(env={"SLURM_NTASKS": "8"}, foreign=("SLURM_NTASKS",))
    after = fixed(facts, launch_like(env={"SLURM_NTASKS": "1"}))
    assert after.env["SLURM_NTASKS"] == "1", "the container's is dropped, the job's is laid over it"


@pytest.mark.parametrize(("size", "fits"), [((128 << 10) - 3, True), ((128 << 10) - 2, False)])
def test_one_variable_may_hold_what_the_kernel_takes(size: int, fits: bool) -> None:
    """As exec itself sees it: NAME=value and a NUL."""
    import subprocess

    value = "x" * size
    refused = fixing.refusal(facts_like(), launch_like(env={"A": value}))
    if fits:
        assert refused is None
        subprocess.run(["/bin/true"], env={"A": value}, check=True)
        return
    assert refused and refused.message.startswith("the variable A holds 128 KiB") and refused.hint
    with pytest.raises(OSError, match="too long"):
        subprocess.run(["/bin/true"], env={"A": value}, check=True)


def test_much_in_all_is_said_and_goes_on() -> None:
    launch = launch_like(
        env={f"A{number}": "x" * 60000 for number in range(5)}, command_env={"B": "y" * 100000}
    )
    assert fixing.refusal(facts_like(), launch) is None
    (told,) = fixing.warnings(facts_like(), launch)
    assert (
        told.name == "environment" and told.reason.startswith("390 KiB in all") and told.reason.endswith("B")
    )
    dropped = replace(launch, drop=("C",), env={}, command_env={})
    assert fixing.warnings(facts_like(env={"C": "z" * 300000}), dropped) == []


def test_what_apptainer_wrote_down_is_the_images(tmp_path: Path) -> None:
    scripts = tmp_path / ".singularity.d/env"
    scripts.mkdir(parents=True)
    (scripts / "10-docker2singularity.sh").write_text(
        '#!/bin/sh\nexport PATH="/opt/bin"\nexport JAVA_HOME="${JAVA_HOME:-"/opt/java"}"\n'
    )
    (scripts / "90-environment.sh").write_text("A=1\nexport A\n")
    env = dict.fromkeys(
        ["PATH", "JAVA_HOME", "A", "MODULEPATH", "APPTAINER_NAME", "SLIPWORKS_RANK", "SLURM_NTASKS"], "1"
    )
    assert facts_.foreign(env, tmp_path) == ("APPTAINER_NAME", "MODULEPATH", "SLURM_NTASKS")
    assert facts_.foreign(env, tmp_path / "podman's") == ("APPTAINER_NAME", "SLURM_NTASKS")


def test_a_node_leaves_out_what_is_dropped_and_searches_the_images_libraries_first(tmp_path: Path) -> None:
    facts = facts_like(env={"PATH": "/bin", "SLURM_NTASKS": "8", "LD_LIBRARY_PATH": "/image"})
    launch = launch_like(drop=("SLURM_NTASKS",), library_path=("/slipworks-fabric",), preload=("/n.so",))
    made = variables.of_node(facts, launch, RunFolder(tmp_path))
    assert "SLURM_NTASKS" not in made and made["PATH"] == "/bin"
    assert made["LD_LIBRARY_PATH"] == "/image:/slipworks-fabric"
    assert "LD_PRELOAD" not in made and variables.of_command(made, launch)["LD_PRELOAD"] == "/n.so"
    alone = variables.of_node(facts_like(env={}), launch, RunFolder(tmp_path))
    assert alone["LD_LIBRARY_PATH"] == "/slipworks-fabric"


# Interfaces

NODE = (
    Interface("lo", "127.0.0.1"),
    Interface("bond0", "10.0.0.5"),
    Interface("hsn0", "10.253.0.5"),
    Interface("hsn1", "10.253.0.6"),
)


@pytest.mark.parametrize(
    ("said", "name", "address"),
    [
        ({}, "bond0", "10.0.0.5"),
        ({"interface": "hsn1"}, "hsn1", "10.253.0.6"),
        ({"interface": "hsn"}, "hsn0", "10.253.0.5"),
        ({"interface": "bond0", "interfaces": {"ray": "hsn"}}, "hsn0", "10.253.0.5"),
        ({"interface": "lo"}, "lo", "127.0.0.5"),
        ({"interface": "ib0"}, None, None),
    ],
)
def test_the_interface_that_is_meant(said: dict[str, object], name: str | None, address: str | None) -> None:
    found = interfaces.chosen(facts_like(rank=3, interfaces=NODE), launch_like(**said))
    assert (found.name, found.address) == (name, address) if found else name is None


def test_a_sites_suffix_finds_the_interface_where_no_name_does() -> None:
    facts = facts_like(interfaces=NODE, alias="10.253.0.6")
    found = interfaces.chosen(facts, launch_like())
    assert found and found.name == "hsn1"
    assert interfaces.chosen(facts, launch_like(interface="bond0")) == NODE[1]


def test_all_say_the_same_address() -> None:
    after = fixed(facts_like(interfaces=NODE), launch_like(nodes=2, interface="hsn"))
    assert after.ray and after.ray.node_ip == after.env["VLLM_HOST_IP"] == "10.253.0.5"
    assert (after.env["NCCL_SOCKET_IFNAME"], after.env["GLOO_SOCKET_IFNAME"]) == ("hsn", "hsn0")


def test_nodes_without_the_interface_are_refused_where_others_need_them() -> None:
    facts = facts_like(interfaces=NODE)
    refused = fixing.refusal(facts, launch_like(nodes=2, interface="ib0"))
    assert refused and "no interface ib0" in refused.message and "hsn1" in refused.message
    assert fixing.refusal(facts, launch_like(nodes=1, interface="ib0")) is None


# Limits


def test_limits_are_raised_as_far_as_they_may_be() -> None:
    facts = facts_like(limits={"memlock": (1000, 5000), "nofile": (1024, -1)})
    assert fixed(facts, launch_like()).limits == {"memlock": 5000, "nofile": 1 << 20}
    high = facts_like(limits={"memlock": (-1, -1), "nofile": (1 << 21, 1 << 21)})
    assert fixed(high, launch_like()).limits == {}, "what is high enough stays"


def test_taking_a_limit_is_no_more_than_that() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (512, before[1]))
        assert limits.take({"nofile": 600}) == []
        assert limits.here()["nofile"] == (600, before[1])
        assert limits.take({"nofile": before[1] + 1}) == ["nofile"] or before[1] == resource.RLIM_INFINITY
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


# NCCL


def test_nccl_is_for_the_command_and_rays_workers_alone() -> None:
    path = "/stack/nvidia/nccl/lib/libnccl.so.2"
    after = fixed(facts_like(gpus=GPU, nccl=Nccl(path, "2.27.5")), launch_like())
    assert after.preload == (path,) and after.env["VLLM_NCCL_SO_PATH"] == path
    assert "LD_PRELOAD" not in after.env, "Ray's daemons have that environment"
    told = json.decode(after.command_env["RAY_JOB_CONFIG_JSON_ENV_VAR"])
    assert told == {"runtime_env": {"env_vars": {"LD_PRELOAD": path}}}
    alone = fixed(facts_like(gpus=GPU, nccl=Nccl(path)), launch_like(ray=None))
    assert alone.preload == (path,) and alone.command_env == {}


def test_nccl_that_the_job_names_comes_first_and_needs_no_gpu() -> None:
    after = fixed(facts_like(nccl=Nccl("/wheel/libnccl.so.2")), launch_like(nccl="/mine/libnccl.so.2"))
    assert after.preload == ("/mine/libnccl.so.2",)
    assert fixed(facts_like(nccl=Nccl("/wheel/libnccl.so.2")), launch_like()).preload == ()
    asked = fixed(facts_like(), launch_like(env={"VLLM_NCCL_SO_PATH": "/other/libnccl.so.2"}))
    assert asked.preload == ("/other/libnccl.so.2",), "vLLM and torch must have the same one"
    own = fixed(facts_like(gpus=GPU, nccl=Nccl("/w")), launch_like(env={"LD_PRELOAD": "/mine.so"}))
    assert own.preload == () and own.env["LD_PRELOAD"] == "/mine.so"


# Tokenized data


def test_data_sets_are_kept_apart_by_what_tokenizes_them() -> None:
    commands = [
        ("sh", "-c", "train model=Qwen/Qwen3-8B data=x"),
        ("sh", "-c", "train model=Qwen/Qwen3-14B data=x"),
        ("python", "-m", "t", "trainer.policy.model.path=Qwen/Qwen3-8B"),
        ("python", "-m", "t", "--tokenizer_name_or_path", "Qwen/Qwen3-8B"),
        ("python", "-m", "t", "--tokenizer-name", "Qwen/Qwen3-8B", "--chat_template", "a.jinja"),
        ("python", "-m", "t", "--tokenizer-name", "Qwen/Qwen3-8B", "--chat_template", "b.jinja"),
    ]
    found = [
        fixed(facts_like(), launch_like(scratch="/s", command=command)).env["HF_DATASETS_CACHE"]
        for command in commands
    ]
    assert len(set(found)) == len(commands) and all(each.startswith("/s/datasets/") for each in found)
    again = fixed(facts_like(), launch_like(scratch="/s", command=("train", "lr=1", "model=Qwen/Qwen3-8B")))
    assert again.env["HF_DATASETS_CACHE"] == found[0], "what does not tokenize does not matter"
    assert "HF_DATASETS_CACHE" not in fixed(facts_like(), launch_like(scratch="/s")).env


# What is installed


def test_packages_of_the_images_python(tmp_path: Path) -> None:
    site = tmp_path / "lib/python3.12/site-packages"
    for folder in (
        "vllm-0.11.0.dist-info",
        "nvidia_nccl_cu12-2.27.5.dist-info",
        "nvidia/nccl/lib",
        "vllm/platforms",
    ):
        (site / folder).mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python").touch(mode=0o755)
    platform = site / "vllm/platforms/cuda.py"
    platform.write_text("handle = pynvml.nvmlDeviceGetHandleByIndex(int(physical_device_id))\n")
    env = {"PATH": str(tmp_path / "bin")}
    assert python_packages.version("vllm", env) == "0.11.0"
    assert python_packages.nccl(env) is None and not python_packages.vllm_takes_uuids(env)
    (site / "nvidia/nccl/lib/libnccl.so.2").touch()
    platform.write_text("handle = pynvml.nvmlDeviceGetHandleByUUID(device_id)\n")
    assert python_packages.nccl(env) == Nccl(str(site / "nvidia/nccl/lib/libnccl.so.2"), "2.27.5")
    assert python_packages.vllm_takes_uuids(env)


def test_answers_of_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a program of that name, which answers as NVIDIA's does: one line a GPU, fields apart by ", "."""
    program = tmp_path / "nvidia-smi"
    program.write_text(
        '#!/bin/sh\ncase "$1" in\n-L)\n'
        'echo "GPU 0: NVIDIA H200 (UUID: GPU-1)"; echo "GPU 1: NVIDIA H200 (UUID: GPU-2)";;\n'
        '*) echo "580.105.08, 00000000:19:00.0"; echo "580.105.08, 00000000:3B:00.0";;\nesac\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    found = facts_.gather(0, 1, None)
    assert found.driver == "580.105.08" and len(found.gpus) == 2
    assert found.bus_ids == ("00000000:19:00.0", "00000000:3B:00.0")
