"""Slices of GPUs: what nvidia-smi was seen to list, against everything that schedulers say."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from runner import fixing, gpus
from runner.fixing import facts_like, launch_like
from runner.gpus import VISIBLE
from runner.launch import Launch

RECORDED = Path(__file__).parent / "recorded/nvidia-smi"
TWO, WHOLE = "h100-two-slices-and-a-whole", "GPU-8c7c9c30-f12f-20bf-e14e-d3c4c965af32"
SEVEN, OLD, EACH = "a100-seven-slices", "a100-seven-slices-old-names", "a100-a-slice-of-each-of-two"
ONE, SOME = "h100-one-slice", "a100-some-sliced-old-names"
A, B = "MIG-377e0049-554c-540b-93c6-d0976f8426cb", "MIG-f39aa248-6f1b-5769-b119-8d650bb34b27"
X, Y = "MIG-6e95ef19-5145-571b-b040-7e731f1c1af3", "MIG-b4bcd4f3-6f69-516d-9404-b5ada80d760b"
LONE = "MIG-b3061c09-2a4c-5026-a575-79f86a5bb12c"
GPU_X, GPU_Y = "GPU-2927d07e-3fe9-7904-9e08-b08b82d9a37d", "GPU-e109d8d9-923e-7235-0429-96b7fdbcbd30"


def lines(name: str) -> tuple[str, ...]:
    return tuple((RECORDED / f"{name}.txt").read_text().splitlines())


def uuids(name: str) -> list[str]:
    return [device.uuid for device in gpus.listed(lines(name))]


def node(
    name: str, said: str | None, launch: Launch, **facts: object
) -> tuple[Launch, str | None, list[str]]:
    """The launch after all fixes, why it is refused, and the warnings of the slices' fix."""
    step = {} if said is None else {VISIBLE: said}
    here = facts_like(gpus=lines(name) if name else (), step=step, **facts)
    after, _ = fixing.fixed(here, launch)
    refused = fixing.refusal(here, after)
    told = [each.reason for each in fixing.warnings(here, after) if each.name == "mig_slices"]
    return after, refused.message if refused else None, told


@pytest.mark.parametrize(
    ("name", "count", "sliced"),
    [(TWO, 3, 2), (OLD, 7, 7), (SEVEN, 7, 7), (EACH, 2, 2), (ONE, 1, 1), (SOME, 8, 4)],
)
def test_what_is_listed(name: str, count: int, sliced: int) -> None:
    found = gpus.listed(lines(name))
    assert (len(found), sum(device.profile is not None for device in found)) == (count, sliced)
    assert all(device.gpu in line for device in found for line in [" ".join(lines(name))])
    assert not any(device.uuid == device.gpu for device in found if device.profile)


@pytest.mark.parametrize(
    ("name", "said", "visible"),
    [
        (TWO, f"{A},{B}", [A, B]),  # full names, by Slurm with NVML: kept
        (TWO, f"{B},{A}", [B, A]),  # in the order that was said
        (TWO, B, [B]),  # one of several, where no control group hides the rest
        (TWO, f"{A}, {WHOLE}", [A, WHOLE]),  # a slice and a whole GPU
        (TWO, "0,1,2", [A, B, WHOLE]),  # as many numbers as there are devices
        (TWO, "MIG-377e,MIG-f39a", [A, B]),  # beginnings, which CUDA takes and vLLM does not
        (TWO, None, [A, B, WHOLE]),  # nothing said: CUDA would show the first alone
        (EACH, "0,1", [X, Y]),  # by Slurm without NVML: the k-th number is the k-th slice
        (EACH, "4,6", [X, Y]),  # numbers of the whole node, in a step that sees two
        (EACH, f"MIG-{GPU_X}/3/0,MIG-{GPU_Y}/3/0", [X, Y]),  # old names said, new ones listed
        (ONE, "0", [LONE]),
        (ONE, "5", [LONE]),
        (ONE, LONE, [LONE]),
        (ONE, f"MIG-GPU-{LONE[4:]}/1/0", None),  # an old name of a GPU that is not here
        (SEVEN, "0,1,2", None),  # three of seven: which?
        (SEVEN, "3", None),
        (EACH, f"MIG-{GPU_X}/3/0,MIG-{GPU_X}/4/0", None),  # two of a GPU with one
        (EACH, f"0,{Y}", None),
        (EACH, f"{X},{X}", None),
        (EACH, GPU_X, None),  # a whole GPU that is sliced
        (EACH, A, None),  # a slice of another node
    ],
)
def test_names(name: str, said: str | None, visible: list[str] | None) -> None:
    after, refused, _ = node(name, said, launch_like(), vllm="0.33.0", vllm_uuids=True)
    if visible is None:
        assert refused and VISIBLE not in after.env and after.ray and after.ray.num_gpus is None
        return
    assert refused is None
    assert after.env[VISIBLE] == ",".join(visible)
    assert after.ray and after.ray.num_gpus == len(visible), "Ray gives each one-GPU actor one of the list"


def test_old_names_are_kept_where_the_driver_lists_them() -> None:
    names = uuids(OLD)
    after, refused, _ = node(OLD, ",".join(names[2:5]), launch_like())
    assert refused is None and after.env[VISIBLE].split(",") == names[2:5]
    assert names[0] == "MIG-GPU-5c89852c-d268-c3f3-1b07-005d5ae1dc3f/7/0"


def test_counting_what_is_not_there_says_both_numbers() -> None:
    _, refused, _ = node(SEVEN, "0,1", launch_like())
    assert refused and "counts 2 (0,1), nvidia-smi lists 7" in refused


def test_one_slice_is_0_for_a_vllm_that_takes_no_uuid() -> None:
    for said in ("0", LONE, None):
        after, refused, told = node(ONE, said, launch_like(), vllm="0.11.0")
        assert refused is None and after.env[VISIBLE] == "0"
        assert after.ray and after.ray.num_gpus == 1
        assert told and "memory" in told[0]


@pytest.mark.parametrize(("name", "said"), [(TWO, f"{A},{B}"), (TWO, B), (EACH, "0,1"), (SEVEN, None)])
def test_several_slices_and_an_old_vllm_are_never_collapsed(name: str, said: str | None) -> None:
    """`0` would be the first slice for all of them, and not the one that was given."""
    after, refused, told = node(name, said, launch_like(), vllm="0.11.0")
    assert refused is None and "MIG-" in after.env[VISIBLE] and "0" not in after.env[VISIBLE].split(",")
    assert told and "vLLM 0.11.0 takes no UUID" in told[0]


def test_without_ray_a_process_sees_one_slice_and_that_is_said() -> None:
    after, _, told = node(EACH, "0,1", launch_like(ray=None))
    assert after.env[VISIBLE] == f"{X},{Y}" and told and "CUDA gives a process one slice" in told[0]
    assert node(ONE, "0", launch_like(ray=None))[2] == []


def test_what_the_user_said_stays_and_is_counted() -> None:
    after, refused, _ = node(SEVEN, "0,1,2,3,4,5,6", launch_like(env={VISIBLE: "MIG-ffda444c,MIG-fe9bc608"}))
    assert refused is None and after.env[VISIBLE] == "MIG-ffda444c,MIG-fe9bc608"
    assert after.ray and after.ray.num_gpus == 2
    assert node(SEVEN, None, launch_like(env={VISIBLE: "0,1"}))[1] is None, "the user may know better"


@pytest.mark.parametrize(
    ("name", "said", "count"),
    [("", "0,1,2,3", 4), ("", "", 0), ("", "NoDevFiles", 0), ("", "-1", 0), ("", A, 1), ("", None, None)],
)
def test_whole_gpus_are_counted_and_left_alone(name: str, said: str | None, count: int | None) -> None:
    """Without nvidia-smi too: then what the scheduler said is all that is known."""
    after, refused, _ = node(name, said, launch_like())
    assert refused is None and VISIBLE not in after.env
    assert after.ray and after.ray.num_gpus == count


def test_fewer_than_asked_for_is_refused() -> None:
    assert node("", "0,1", launch_like(gpus=2))[1] is None
    refused = node("", "0,1", launch_like(gpus=4))[1]
    assert refused == f"node 0 (n1) has 2 GPU(s) for the job, which asked for 4 ({VISIBLE}=0,1)"
    refused = node("", None, launch_like(gpus=1))[1]
    assert refused and "has 0 GPU(s)" in refused and "nvidia-smi lists 0" in refused


def test_slices_of_one_gpu_are_one_for_nccl() -> None:
    two = facts_like(gpus=lines(TWO), step={VISIBLE: f"{A},{B}"})
    told = {each.name: each.reason for each in fixing.warnings(two, launch_like())}
    assert "2 slices of one GPU: NCCL before 2.30" in told["duplicate_gpu"]
    apart = facts_like(gpus=lines(EACH), step={VISIBLE: "0,1"})
    assert "duplicate_gpu" not in {each.name for each in fixing.warnings(apart, launch_like())}
    same = replace(apart, bus_ids=("0:1:0.0", "0:1:0.0"))
    told = {each.name: each.reason for each in fixing.warnings(same, launch_like())}
    assert "one learner a node" in told["duplicate_gpu"]


@pytest.mark.parametrize(
    ("counted", "own", "seen", "visible"),
    [
        ("0,1", "4,5", 8, "4,5"),  # docker: outside the step's control group
        ("0,1", "4,5", 2, None),  # inside it
        ("4,5", "4,5", 8, None),  # a Slurm without control groups
        ("0", "7", 4, None),  # not this node's numbers
        ("0,1", "4", 8, None),
        ("GPU-1", "4", 8, None),
    ],
)
def test_numbers_that_count_a_steps_gpus(counted: str, own: str, seen: int, visible: str | None) -> None:
    whole = tuple(f"GPU {n}: NVIDIA H100 (UUID: GPU-{n})" for n in range(seen))
    facts = facts_like(gpus=whole, step={VISIBLE: counted, gpus.ON_NODE: own})
    after, _ = fixing.fixed(facts, launch_like())
    assert after.env.get(VISIBLE) == visible
    assert after.ray and after.ray.num_gpus == len(counted.split(","))
    mine = fixing.fixed(facts, launch_like(env={VISIBLE: "1"}))[0]
    assert mine.env[VISIBLE] == "1" and mine.ray and mine.ray.num_gpus == 1
