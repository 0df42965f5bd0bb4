"""A container sees all of a node's GPUs, and the scheduler's numbers count only the step's.

Symptom: two jobs on the first GPUs of a node, the others idle; out of memory on a GPU that seemed free.
Cause: Slurm with control groups calls the GPUs of every step 0, 1, …; a container that docker's daemon starts
is in no such group, so there 0 is the node's first. SLURM_STEP_GPUS has the node's own numbers.
Remove when: no engine starts containers outside the step's control group.
"""

from runner.facts import Facts
from runner.fixing import Example, facts_like, launch_like
from runner.gpus import ON_NODE, VISIBLE, renumbered
from runner.launch import Launch, said, with_env


def applies(facts: Facts, launch: Launch) -> str | None:
    names = renumbered(facts, launch)
    if names is None or said(VISIBLE, facts, launch):
        return None
    there = len(facts.gpus)
    return f"{VISIBLE} is {','.join(names)}, was {facts.step[VISIBLE]}: all {there} GPUs are visible here"


def apply(facts: Facts, launch: Launch) -> Launch:
    return with_env(facts, launch, {VISIBLE: ",".join(renumbered(facts, launch) or ())})


EXAMPLE = Example(
    facts_like(
        gpus=tuple(f"GPU {n}: H100 (UUID: GPU-{n}0000000-0000-0000-0000-000000000000)" for n in range(8)),
        step={VISIBLE: "0,1", ON_NODE: "4,5"},
    ),
    launch_like(),
    launch_like(env={VISIBLE: "4,5"}),
)
