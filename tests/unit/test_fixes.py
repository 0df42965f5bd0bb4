"""Every fix, held to the contract in runner/fixing.py."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from msgspec.structs import replace

from runner import fixes, fixing
from runner.facts import Facts, Folder
from runner.fixing import facts_like, launch_like
from runner.launch import Launch, RayPlan
from runner.python_packages import Nccl
from slurm.fabric import Fabric

FIXES = fixing.names()
GPUS = (
    "GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-7f57f032-34ab-a064-c37c-7a4f75601cc5)",
    "  MIG 2g.20gb     Device  0: (UUID: MIG-377e0049-554c-540b-93c6-d0976f8426cb)",
    "  MIG 1g.10gb     Device  1: (UUID: MIG-f39aa248-6f1b-5769-b119-8d650bb34b27)",
)
POOR = facts_like(
    rank=1,
    nodes=2,
    env={"MODULEPATH": "/m"},
    foreign=("MODULEPATH",),
    shm_free=64 << 20,
    temporary=(Folder("/nfs/" + "x" * 60, False, 1), Folder("/tmp", True, 1)),
    gpus=GPUS,
    step={"CUDA_VISIBLE_DEVICES": "0,1", "SLURM_ARRAY_TASK_ID": "7"},
    nccl=Nccl("/stack/nvidia/nccl/lib/libnccl.so.2", "2.30.7"),
    fabric=("libfabric.so.1", "libnccl-net.so"),
    limits={"memlock": (65536, -1), "nofile": (1024, 4096)},
)
WHOLE = replace(
    POOR,
    gpus=tuple(f"GPU {n}: H100 (UUID: GPU-{n}0000000-0000-0000-0000-000000000000)" for n in range(8)),
    step={"CUDA_VISIBLE_DEVICES": "0,1", "SLURM_STEP_GPUS": "2,3", "SLURM_ARRAY_TASK_ID": "7"},
    bus_ids=("0:1:0.0",) * 8,
)
"""As poor, with whole GPUs."""
FABRIC = Fabric(kind="slingshot", environment={"NCCL_SOCKET_IFNAME": "hsn", "FI_PROVIDER": "cxi"})
ASKED = launch_like(
    nodes=2,
    nodes_here=2,
    interface="lo",
    scratch="/scratch",
    ray=RayPlan(token_file="/run/token"),
    command=("python", "-m", "skyrl.train.entrypoints.main_base", "tokenizer=a/b"),
    secrets=("HF_TOKEN",),
    keep=("SLURM_ARRAY_*",),
    fabric=FABRIC,
    internet=False,
)


def poor(name: str) -> Facts:
    """The poor node on which a fix applies."""
    return WHOLE if name == "renumbered_gpus" else POOR


def once(name: str, facts: Facts, launch: Launch) -> Launch:
    fix = fixing.load(name)
    return launch if fix.applies(facts, launch) is None else fix.apply(facts, launch)


def test_all_files_are_found() -> None:
    files = {file.stem for file in Path(str(fixes.__file__)).parent.glob("*.py")} - {"__init__"}
    assert set(FIXES) == files and len(FIXES) >= 20


@pytest.mark.parametrize("name", FIXES)
def test_docstring_says_when_it_may_go(name: str) -> None:
    said = fixing.load(name).__doc__ or ""
    assert all(part in said for part in ("\n\nSymptom: ", "\nCause: ", "\nRemove when: "))


@pytest.mark.parametrize("name", FIXES)
def test_example(name: str) -> None:
    fix = fixing.load(name)
    assert fix.applies(fix.EXAMPLE.facts, fix.EXAMPLE.before)
    assert fix.apply(fix.EXAMPLE.facts, fix.EXAMPLE.before) == fix.EXAMPLE.after


@pytest.mark.parametrize("name", FIXES)
def test_once_is_enough(name: str) -> None:
    fix = fixing.load(name)
    for facts, before in ((fix.EXAMPLE.facts, fix.EXAMPLE.before), (poor(name), ASKED)):
        assert fix.applies(facts, once(name, facts, before)) is None


@pytest.mark.parametrize("name", FIXES)
def test_all_apply_where_everything_is_wrong(name: str) -> None:
    """So the pairs below really meet."""
    assert fixing.load(name).applies(poor(name), ASKED)


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(FIXES, 2)))
def test_every_pair_commutes(one: str, other: str) -> None:
    for facts, launch in (
        (POOR, ASKED),
        (WHOLE, ASKED),
        *((fixing.load(name).EXAMPLE.facts, fixing.load(name).EXAMPLE.before) for name in (one, other)),
    ):
        assert once(one, facts, once(other, facts, launch)) == once(other, facts, once(one, facts, launch))


@pytest.mark.parametrize("name", FIXES)
def test_what_the_user_set_wins(name: str) -> None:
    """All that a fix would set is set by the user, to something else: nothing of it changes."""
    after = once(name, poor(name), ASKED)
    assert after != ASKED and after.ray and ASKED.ray
    odd = {
        "num_cpus": 99, "num_gpus": 99, "node_ip": "9.9.9.9", "temp_dir": "/u", "object_store_memory": 1,
        "plasma_directory": "/p", "ports": {key: 1 for key in after.ray.ports},
    }  # fmt: skip
    mine = {key: value for key, value in odd.items() if getattr(after.ray, key) != getattr(ASKED.ray, key)}
    users = replace(
        ASKED,
        env={key: "the user's" for key in after.env},
        command_env={key: "the user's" for key in after.command_env},
        ray=replace(ASKED.ray, **mine),
        preload=("the user's",) if after.preload else (),
        limits=dict.fromkeys(after.limits, 1),
        # Lists that a fix lengthens and never replaces.
        drop=after.drop,
        library_path=after.library_path,
        withheld=after.withheld,
        hooks=after.hooks,
    )
    assert once(name, poor(name), users) == users


@pytest.mark.parametrize("name", FIXES)
def test_the_images_own_variables_win_too(name: str) -> None:
    variables = once(name, poor(name), ASKED).env
    facts = replace(poor(name), env={**POOR.env, **dict.fromkeys(variables, "the image's")})
    assert once(name, facts, ASKED).env == ASKED.env


@pytest.mark.parametrize("name", FIXES)
def test_a_job_without_ray_has_no_ray(name: str) -> None:
    assert once(name, POOR, replace(ASKED, ray=None)).ray is None


def test_temp_dir_is_local_and_short() -> None:
    after = once("ray_temp_dir", POOR, ASKED)
    assert after.ray and after.ray.temp_dir == "/tmp/sw-0badcafe-1"
    nowhere = replace(POOR, temporary=(Folder("/" + "x" * 60, True, 1),))
    assert fixing.load("ray_temp_dir").applies(nowhere, ASKED) is None


def test_an_old_ray_has_no_token() -> None:
    assert fixing.load("ray_token").applies(replace(POOR, ray="2.51.1"), ASKED) is None
    assert fixing.load("ray_token").applies(replace(POOR, ray="2.100.0"), ASKED)


def test_that_an_old_ray_has_no_token_is_said() -> None:
    def told(version: str) -> bool:
        facts = replace(POOR, ray=version)
        return "ray_token" in {each.name for each in fixing.warnings(facts, ASKED)}

    assert told("2.51.1") and not told("2.52.0") and not told("2.100.0")


def test_the_clusters_count_is_the_most_that_ray_gets() -> None:
    for cpus, said, expected in ((288, 32, 32), (16, 32, 16), (288, None, 288)):
        after = once("cpu_count", facts_like(cpus=cpus), launch_like(ray_cpus=said))
        assert after.ray and after.ray.num_cpus == expected


def test_plain_shared_memory_is_left_alone() -> None:
    assert fixing.load("shared_memory").applies(facts_like(), launch_like()) is None


def test_ports_of_two_blocks_never_meet() -> None:
    from runner.ports import SIZE

    one, other = (
        once("ray_ports", replace(POOR, port_base=base, ray_client=True), ASKED).ray
        for base in (20000, 20000 + SIZE)
    )
    assert one and other and not set(one.ports.values()) & set(other.ports.values())
    assert 20000 not in one.ports.values(), "the block's first port is its lock"
