"""Ray counts the machine's GPUs, not the job's, and never slices.

Symptom: actors that wait for GPUs which the job has, or that are given GPUs which it has not.
Cause: Ray asks NVML, which sees whole GPUs, also those of other jobs where no control group hides them.
Remove when: Ray counts what CUDA_VISIBLE_DEVICES names, UUIDs of slices too.
"""

from kit.errors import LaunchError
from runner.facts import Facts
from runner.fixing import Example, facts_like, launch_like
from runner.gpus import VISIBLE, chosen, given
from runner.launch import Launch, RayPlan, with_ray


def applies(facts: Facts, launch: Launch) -> str | None:
    found = chosen(facts, launch)
    if launch.ray is None or launch.ray.num_gpus is not None or found.count is None or found.problem:
        return None
    whence = "nvidia-smi lists them" if given(facts, launch) is None else f"{VISIBLE} names them"
    return f"Ray gets {found.count} GPU(s): {whence}"


def apply(facts: Facts, launch: Launch) -> Launch:
    return with_ray(launch, num_gpus=chosen(facts, launch).count)


def refuses(facts: Facts, launch: Launch) -> LaunchError | None:
    """A job that gets fewer than it asked for waits forever for the rest."""
    found = chosen(facts, launch)
    if not launch.gpus or (found.count or 0) >= launch.gpus or found.problem:
        return None
    said = given(facts, launch)
    seen = f"nvidia-smi lists {len(facts.gpus)}" if said is None else f"{VISIBLE}={said}"
    return LaunchError(
        f"node {facts.rank} ({facts.hostname}) has {found.count or 0} GPU(s) for the job, which asked for"
        f" {launch.gpus} ({seen})",
        "nvidia-smi -L",
    )


EXAMPLE = Example(
    facts_like(
        gpus=tuple(f"GPU {n}: H100 (UUID: GPU-{n}0000000-0000-0000-0000-000000000000)" for n in range(8)),
        step={VISIBLE: "2,3"},
    ),
    launch_like(),
    launch_like(ray=RayPlan(num_gpus=2)),
)
