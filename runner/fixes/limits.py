"""Soft limits of memory that may be locked and of open files stay at what a shell needs.

Symptom: "Cannot allocate memory" from ibv_reg_mr or libfabric, NCCL that leaves the fast network; "Too many
open files" from Ray with hundreds of actors.
Cause: a node starts its programs with the soft limits of whatever started it; networks lock their buffers.
Remove when: schedulers and engines start jobs with the hard limits.
"""

from msgspec.structs import replace

from runner.facts import Facts
from runner.fixing import Example, facts_like, launch_like
from runner.launch import Launch
from slurm.fabric import Fabric

UNLIMITED = -1
FILES = 1 << 20  # more makes programs slow that close all they could have open
LOCKED = 1 << 30  # bytes; below that no fast network gets its buffers


def _higher(facts: Facts, launch: Launch) -> dict[str, int]:
    """The limits that can be raised, to what."""
    found = {}
    for name, (soft, hard) in facts.limits.items():
        most = min(hard, FILES) if name == "nofile" and hard != UNLIMITED else hard
        most = FILES if name == "nofile" and hard == UNLIMITED else most
        if name not in launch.limits and soft != UNLIMITED and (most == UNLIMITED or most > soft):
            found[name] = most
    return found


def applies(facts: Facts, launch: Launch) -> str | None:
    words = [
        f"{name} is {'unlimited' if most == UNLIMITED else most}, was {facts.limits[name][0]}"
        for name, most in _higher(facts, launch).items()
    ]
    return "; ".join(words) or None


def apply(facts: Facts, launch: Launch) -> Launch:
    return replace(launch, limits={**_higher(facts, launch), **launch.limits})


def warns(facts: Facts, launch: Launch) -> str | None:
    hard = facts.limits.get("memlock", (UNLIMITED, UNLIMITED))[1]
    if hard == UNLIMITED or hard >= LOCKED or not launch.fabric or launch.fabric.kind == "ethernet":
        return None
    return f"no more than {hard >> 10} KiB can be locked here: {launch.fabric.kind} needs more (ulimit -Hl)"


EXAMPLE = Example(
    facts_like(limits={"memlock": (65536, -1), "nofile": (1024, 524288)}),
    launch_like(fabric=Fabric(kind="infiniband")),
    launch_like(fabric=Fabric(kind="infiniband"), limits={"memlock": -1, "nofile": 524288}),
)
