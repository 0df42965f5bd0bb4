"""Which of a node's interfaces is meant, for each purpose the same on all nodes. Pure."""

from __future__ import annotations

from runner.facts import Facts, Interface
from runner.launch import Launch

LOOPBACK = "lo"


def word(launch: Launch, purpose: str) -> str | None:
    """What the cluster says of a purpose ("ray", "nccl", "gloo"): a name or the beginning of several."""
    return launch.interfaces.get(purpose, launch.interface)


def chosen(facts: Facts, launch: Launch, purpose: str = "ray") -> Interface | None:
    """The interface, with this node's address there; None where the node has none that is meant.

    By the cluster's word: of that name, or else the first whose name begins so (hsn: hsn0). Where it says
    none: the one that has the address of the node's name with the site's suffix, else the first but lo.
    On lo each node has an address of its own, for nodes that share a machine.
    """
    name = word(launch, purpose)
    if name == LOOPBACK:
        return Interface(LOOPBACK, f"127.0.0.{facts.rank + 2}")  # not .1, which Ray replaces by another's
    there = facts.interfaces
    if name:
        meant = [each for each in there if each.name == name]
        meant = meant or [each for each in there if each.name.startswith(name)]
    else:
        meant = [each for each in there if each.address == facts.alias]
        meant = meant or [each for each in there if each.name != LOOPBACK]
    return meant[0] if meant else None
