"""MIG slices come under names that not all programs understand, or by numbers that CUDA counts otherwise.

Symptom: "Model architectures [...] failed to be inspected", "invalid literal for int() with base 10:
'MIG-…'", or all processes of a node in its first slice.
Cause: Slurm names slices by UUID (MIG-…, or MIG-GPU-…/gi/ci by drivers before 470) or counts them; CUDA gives
a process one slice; vLLM before mid-2026 takes the name for an integer. Ray gives each one-GPU actor one name
of the list, so the list must name slices. An old vLLM works only where a process sees one slice and no more.
Remove when: vLLM that takes no UUID is in no image, and Slurm without NVML on no cluster.
"""

from kit.errors import LaunchError
from runner.facts import Facts
from runner.fixing import Example, facts_like, launch_like
from runner.gpus import VISIBLE, Chosen, chosen, given, listed
from runner.launch import Launch, said, with_env


def _old_vllm(facts: Facts) -> bool:
    return facts.vllm is not None and not facts.vllm_uuids


def _names(facts: Facts, found: Chosen) -> str:
    """For CUDA_VISIBLE_DEVICES: UUIDs; "0" for an old vLLM where that can mean one slice only."""
    if _old_vllm(facts) and len(found.devices) == len(listed(facts.gpus)) == 1:
        return "0"
    return ",".join(found.names or ())


def applies(facts: Facts, launch: Launch) -> str | None:
    found = chosen(facts, launch)
    if said(VISIBLE, facts, launch) or found.problem or not found.slices:
        return None
    what = ", ".join(str(device.profile) for device in found.slices)
    before = given(facts, launch)
    was = "nothing was said" if before is None else f"was {before}"
    return f"{found.count} slice(s) ({what}): {VISIBLE} is {_names(facts, found)}, {was}"


def apply(facts: Facts, launch: Launch) -> Launch:
    return with_env(facts, launch, {VISIBLE: _names(facts, chosen(facts, launch))})


def refuses(facts: Facts, launch: Launch) -> LaunchError | None:
    problem = chosen(facts, launch).problem
    if problem is None or said(VISIBLE, facts, launch):
        return None
    return LaunchError(f"node {facts.rank} ({facts.hostname}): {problem}", "nvidia-smi -L")


def warns(facts: Facts, launch: Launch) -> str | None:
    found = chosen(facts, launch)
    if not found.slices:
        return None
    count = len(found.slices)
    if _old_vllm(facts) and len(listed(facts.gpus)) > 1:
        return (
            f"vLLM {facts.vllm} takes no UUID and fails in processes that get one of {count} slices by name:"
            " ask for one slice a node, or take an image with a newer vLLM"
        )
    if launch.ray is None and count > 1:
        return f"CUDA gives a process one slice: unless told otherwise, each sees the first of {count}"
    if _old_vllm(facts):
        return "the slice is called 0, of which NVML tells the whole GPU's memory: set its sizes explicitly"
    return None


EXAMPLE = Example(
    facts_like(
        gpus=(
            "GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-7f57f032-34ab-a064-c37c-7a4f75601cc5)",
            "  MIG 2g.20gb     Device  0: (UUID: MIG-377e0049-554c-540b-93c6-d0976f8426cb)",
            "  MIG 1g.10gb     Device  1: (UUID: MIG-f39aa248-6f1b-5769-b119-8d650bb34b27)",
        ),
        step={VISIBLE: "0,1"},
    ),
    launch_like(),
    launch_like(
        env={VISIBLE: "MIG-377e0049-554c-540b-93c6-d0976f8426cb,MIG-f39aa248-6f1b-5769-b119-8d650bb34b27"}
    ),
)
