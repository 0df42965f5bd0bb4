"""Under which address a node is reached by the others."""

from __future__ import annotations

from kit.errors import LaunchError
from runner import interfaces
from runner.facts import Facts
from runner.launch import Launch


def own(facts: Facts, launch: Launch) -> str:
    """This node's IPv4 address: Ray's where that is decided, else that of the interface which is meant.

    LaunchError where the node has no such interface and others must reach it.
    """
    if launch.ray and launch.ray.node_ip:
        return launch.ray.node_ip
    found = interfaces.chosen(facts, launch)
    if found:
        return found.address
    if launch.nodes == 1:
        return "127.0.0.1"
    name = interfaces.word(launch, "ray")
    there = ", ".join(each.name for each in facts.interfaces) or "none"
    wanted = f"no interface {name} with an IPv4 address" if name else "no interface but lo"
    raise LaunchError(f"node {facts.rank} ({facts.hostname}) has {wanted}; it has {there}", "ip -4 addr")
