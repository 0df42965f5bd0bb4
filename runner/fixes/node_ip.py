"""Nodes find each other under the wrong address.

Symptom: workers that never join; traffic on the management network; two nodes of a machine taken for one.
Cause: with several interfaces Ray asks which one leads to the internet; nodes on one machine share it.
Remove when: never; a node has to be told which of its addresses is meant.
"""

from kit.errors import LaunchError
from runner.facts import Facts
from runner.fixing import Example, facts_like, launch_like
from runner.interfaces import chosen, word
from runner.launch import Launch, RayPlan, with_ray


def applies(facts: Facts, launch: Launch) -> str | None:
    if launch.ray is None or launch.ray.node_ip is not None:
        return None
    found = chosen(facts, launch)
    return f"this node is {found.address}, its address on {found.name}" if found else None


def apply(facts: Facts, launch: Launch) -> Launch:
    found = chosen(facts, launch)
    return with_ray(launch, node_ip=found.address if found else None)


def refuses(facts: Facts, launch: Launch) -> LaunchError | None:
    """Nodes that guess apart never meet."""
    if launch.nodes == 1 or chosen(facts, launch) or (launch.ray and launch.ray.node_ip):
        return None
    name = word(launch, "ray")
    wanted = f"no interface {name} with an IPv4 address" if name else "no interface but lo"
    there = ", ".join(each.name for each in facts.interfaces) or "nothing"
    return LaunchError(
        f"node {facts.rank} ({facts.hostname}) has {wanted}; it has {there}",
        "ip -4 addr",
    )


EXAMPLE = Example(
    facts_like(rank=1),
    launch_like(interface="lo"),
    launch_like(interface="lo", ray=RayPlan(node_ip="127.0.0.3")),
)
