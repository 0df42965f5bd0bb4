"""What is known of a place where jobs run: one file a cluster, in slurm/clusters/."""

from __future__ import annotations

from importlib import resources
from typing import Literal

from msgspec import Struct

from kit import decode
from kit.suggest import unknown


class Cluster(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A cluster's profile.

    summary    one line for lists.
    scheduler  "none": the nodes of a job are containers on this machine.
    interface  the network interface whose address a node uses for Ray; None: the node's first that is not lo.
    """

    summary: str
    scheduler: Literal["none", "slurm"]
    interface: str | None = None


def names() -> tuple[str, ...]:
    """All clusters that there is a file for."""
    folder = resources.files("slurm") / "clusters"
    return tuple(
        sorted(file.name[: -len(".toml")] for file in folder.iterdir() if file.name.endswith(".toml"))
    )


def load(name: str) -> Cluster:
    """The profile of that name; UnknownNameError with a did-you-mean if there is none."""
    if name not in names():
        raise unknown("cluster", name, names())
    file = resources.files("slurm") / "clusters" / f"{name}.toml"
    return decode.toml(file.read_text(), Cluster, f"slurm/clusters/{name}.toml")
