"""/dev/shm is smaller than the object store that Ray would put there.

Symptom: "The object store is using /tmp instead of /dev/shm", bus errors, or raylets that die under load.
Cause: containers get 64 MB by default; Ray plans with 30 % of the memory, each node of a machine anew.
Remove when: Ray sizes its store by what is free in /dev/shm, shared by all nodes of the machine.
"""

from runner.facts import Facts
from runner.fixing import Example, facts_like, launch_like
from runner.launch import Launch, RayPlan, with_ray

SMALLEST = 80 << 20  # bytes; Ray refuses a store below 75 MiB


def _room(facts: Facts, launch: Launch) -> int:
    return int(facts.shm_free * 0.8) // launch.nodes_here


def applies(facts: Facts, launch: Launch) -> str | None:
    if launch.ray is None or launch.ray.object_store_memory is not None:
        return None
    if _room(facts, launch) >= int(facts.memory * 0.3):
        return None
    free = f"{facts.shm_free >> 20} MiB free in /dev/shm for {launch.nodes_here} node(s)"
    if _room(facts, launch) >= SMALLEST:
        return f"Ray's object store gets {_room(facts, launch) >> 20} MiB: {free}"
    return f"Ray's object store lies in a temporary folder: only {free}"


def apply(facts: Facts, launch: Launch) -> Launch:
    room = _room(facts, launch)
    if room >= SMALLEST or not facts.temporary:
        return with_ray(launch, object_store_memory=max(room, SMALLEST))
    return with_ray(launch, object_store_memory=SMALLEST, plasma_directory=facts.temporary[0].path)


EXAMPLE = Example(
    facts_like(shm_free=1000 << 20),
    launch_like(nodes=2, nodes_here=2),
    launch_like(nodes=2, nodes_here=2, ray=RayPlan(object_store_memory=400 << 20)),
)
