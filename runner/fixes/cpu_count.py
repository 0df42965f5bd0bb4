"""Ray counts the machine's CPUs, not the job's.

Symptom: hundreds of idle workers at the start, actors that time out; two nodes on one machine count it twice.
Cause: Ray reads /proc/cpuinfo's count; Slurm limits a step by affinity, containers by a cgroup quota. Some
sites report more than are of use (288 on a GH200 node): the cluster's `ray_cpus` is the most that Ray gets.
Remove when: Ray asks for the affinity mask and the quota.
"""

from runner.facts import Facts
from runner.fixing import Example, facts_like, launch_like
from runner.launch import Launch, RayPlan, with_ray


def _share(facts: Facts, launch: Launch) -> int:
    share = max(1, facts.cpus // launch.nodes_here)
    return min(share, launch.ray_cpus) if launch.ray_cpus else share


def applies(facts: Facts, launch: Launch) -> str | None:
    if launch.ray is None or launch.ray.num_cpus is not None:
        return None
    shared = f", shared by {launch.nodes_here} nodes" if launch.nodes_here > 1 else ""
    most = f", the cluster {launch.ray_cpus}" if launch.ray_cpus else ""
    return f"Ray gets {_share(facts, launch)} CPUs: affinity and quota allow {facts.cpus}{shared}{most}"


def apply(facts: Facts, launch: Launch) -> Launch:
    return with_ray(launch, num_cpus=_share(facts, launch))


EXAMPLE = Example(
    facts_like(cpus=8),
    launch_like(nodes=2, nodes_here=2),
    launch_like(nodes=2, nodes_here=2, ray=RayPlan(num_cpus=4)),
)
