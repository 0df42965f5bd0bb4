"""Nodes find each other under the wrong address.

Symptom: workers that never join; traffic on the management network; two nodes of a machine taken for one.
Cause: with several interfaces Ray asks which one leads to the internet; nodes on one machine share it.
Remove when: never; a node has to be told which of its addresses is meant.
"""

from runner.facts import Facts
from runner.fixing import Example, facts_like, launch_like
from runner.launch import Launch, RayPlan, with_ray


def _address(facts: Facts, launch: Launch) -> str | None:
    if launch.interface == "lo":
        return f"127.0.0.{facts.rank + 2}"  # not .1, which Ray replaces by another interface's address
    for interface in facts.interfaces:
        if interface.name == launch.interface or (launch.interface is None and interface.name != "lo"):
            return interface.address
    return None


def applies(facts: Facts, launch: Launch) -> str | None:
    if launch.ray is None or launch.ray.node_ip is not None:
        return None
    address = _address(facts, launch)
    chosen = f"of {launch.interface}" if launch.interface else "of the first interface that is not lo"
    return f"this node is {address}, the address {chosen}" if address else None


def apply(facts: Facts, launch: Launch) -> Launch:
    return with_ray(launch, node_ip=_address(facts, launch))


EXAMPLE = Example(
    facts_like(rank=1),
    launch_like(interface="lo"),
    launch_like(interface="lo", ray=RayPlan(node_ip="127.0.0.3")),
)
