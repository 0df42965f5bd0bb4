"""Which cluster this is: `look` asks this machine, `detect` decides, and is pure."""

from __future__ import annotations

import functools
import os
import re
import shutil
import socket
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from kit import process
from kit.errors import SlipworksError, UsageError
from slurm import config
from slurm.clusters import BASIS, Cluster
from slurm.rooted import below

LOCAL = "local"
PATIENCE = 3.0  # seconds for scontrol, which without a controller would take a minute


class Seen(Struct, frozen=True, kw_only=True):
    """What a machine says of itself.

    host          its name, as full as it is known without asking the network.
    cluster_name  Slurm's ClusterName; None: not known.
    source        where that was read.
    slurm         whether there is anything of Slurm here: then nothing is taken for a plain machine.
    """

    host: str
    cluster_name: str | None = None
    source: str = ""
    slurm: bool = False


class Detected(Struct, frozen=True, kw_only=True):
    """The cluster's name and how it was found; or None and who it might be."""

    name: str | None
    how: str
    candidates: tuple[str, ...] = ()

    def sure(self) -> str:
        """The name; UsageError that names the candidates where it is not known."""
        if self.name is not None:
            return self.name
        first = self.candidates[0] if len(self.candidates) == 1 else "NAME"
        here = "; --cluster local runs on this machine" if LOCAL in self.candidates else ""
        raise UsageError(
            f"cannot tell which cluster this is: {self.how}; it may be {_listed(self.candidates)}",
            f'--cluster {first}, or cluster = "{first}" in config.toml (runner config){here}',
        )


def detect(seen: Seen, profiles: Mapping[str, Cluster]) -> Detected:
    """Slurm's ClusterName decides, then the full host name; a plain machine is `local`. Pure.

    Of several patterns the longest wins. A pattern with a `*` and without a dot (`nid*`) is of a name that
    is too short to be one cluster's: it makes a candidate and decides nothing.
    """
    if seen.cluster_name is not None:
        named = _named(seen.cluster_name, profiles)
        if len(named) == 1:
            return Detected(name=named[0], how=f"ClusterName {seen.cluster_name} ({seen.source})")
        if named:
            how = f"{len(named)} clusters have the ClusterName {seen.cluster_name}"
            return Detected(name=None, how=how, candidates=named)
    found = _hosted(seen.host, profiles)
    if len(found) == 1:
        name, pattern = found[0]
        if "." in pattern or "*" not in pattern:
            return Detected(name=name, how=f"host name {seen.host} is like {pattern}")
    if found:
        how = f"the host name {seen.host} is too short, or fits several"
        return Detected(name=None, how=how, candidates=tuple(sorted({name for name, _ in found})))
    if not seen.slurm:
        return Detected(name=LOCAL, how="no Slurm here")
    if seen.cluster_name:
        how = f"no known cluster has the ClusterName {seen.cluster_name} or the host name {seen.host}"
    else:
        how = f"no ClusterName could be read, and no known cluster has the host name {seen.host}"
    return Detected(name=None, how=how, candidates=(*_slurm(profiles), LOCAL))


def look(environment: Mapping[str, str] = os.environ, root: Path = Path("/")) -> Seen:
    """What this machine says. Files are read first; only where none tells is scontrol asked, and not long."""
    host = _host(root)
    if name := environment.get("SLURM_CLUSTER_NAME"):
        return Seen(host=host, cluster_name=name, source="SLURM_CLUSTER_NAME", slurm=True)
    said = environment.get("SLURM_CONF")
    there = config.find(environment, root)
    if there and (name := config.values(there, root).get("clustername")):
        return Seen(host=host, cluster_name=name, source=str(below(root, there)), slurm=True)
    scontrol = shutil.which("scontrol", path=environment.get("PATH", os.defpath))
    if scontrol is None:
        return Seen(host=host, slurm=bool(said or there or "SLURM_JOB_ID" in environment))
    name = _asked(scontrol, said)
    return Seen(host=host, cluster_name=name, source="scontrol show config", slurm=True)


@functools.cache
def _asked(scontrol: str, conf: str | None) -> str | None:
    environment = {**os.environ, **({"SLURM_CONF": conf} if conf else {})}
    try:
        told = process.run(
            [scontrol, "show", "config"], what="ask Slurm for its name", env=environment, timeout=PATIENCE
        )
    except SlipworksError:
        return None
    return config.cluster_name(told.out)


def _host(root: Path) -> str:
    """The host name; a short one is looked up in /etc/hosts, never in the network, which may hang."""
    host = socket.gethostname()
    if "." in host:
        return host
    try:
        lines = (root / "etc/hosts").read_text(errors="replace").splitlines()
    except OSError:
        return host
    for line in lines:
        names = line.partition("#")[0].split()[1:]
        if host in names and "." in names[0] and not names[0].startswith("localhost"):
            return names[0]
    return host


def _named(cluster_name: str, profiles: Mapping[str, Cluster]) -> tuple[str, ...]:
    """Slurm itself takes cluster names in lower case."""
    wanted = cluster_name.lower()
    return tuple(
        name for name, each in profiles.items() if wanted in (said.lower() for said in each.cluster_names)
    )


def _hosted(host: str, profiles: Mapping[str, Cluster]) -> list[tuple[str, str]]:
    """Clusters and their patterns that fit the whole name; only those as long as the longest."""
    fits = [
        (name, pattern)
        for name, each in profiles.items()
        for pattern in each.hosts
        if re.fullmatch(re.escape(pattern).replace(r"\*", ".*"), host, re.IGNORECASE)
    ]
    longest = max((_length(pattern) for _, pattern in fits), default=0)
    best = [(name, pattern) for name, pattern in fits if _length(pattern) == longest]
    return best[:1] if len({name for name, _ in best}) == 1 else best


def _length(pattern: str) -> int:
    """A full name beats a short one, whatever their lengths."""
    return len(pattern.replace("*", "")) + (1000 if "." in pattern else 0)


def _slurm(profiles: Mapping[str, Cluster]) -> tuple[str, ...]:
    """Clusters of Slurm; of them the generic one last."""
    found = sorted(name for name, each in profiles.items() if each.scheduler == "slurm" and name != BASIS)
    return (*found, BASIS)


def _listed(names: tuple[str, ...]) -> str:
    return " or ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)
