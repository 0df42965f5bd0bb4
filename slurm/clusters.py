"""What is known of a place where jobs run: one file a cluster, in slurm/clusters/."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from msgspec import Struct, structs

from kit import decode, settings
from kit.errors import InvalidFileError
from kit.suggest import unknown
from slurm import egress
from slurm.egress import WayOut
from slurm.fabric import Fabric

GpuDirective = Literal["gres", "gpus-per-node", "none"]


class Partition(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A partition as far as it differs from the cluster: None means as the cluster.

    time_limit  the longest that Slurm grants, as Slurm writes it ("2-00:00:00"); nodes: the most a job gets.
    time_limits where that depends on a job's size: from so many nodes on, which are the key, this limit.
    """

    arch: str | None = None
    gpus_per_node: int | None = None
    gpu_type: str | None = None
    cpus_per_node: int | None = None
    memory_per_node: str | None = None
    time_limit: str | None = None
    time_limits: dict[str, str] = {}
    nodes: int | None = None
    exclusive: bool | None = None

    def longest(self, nodes: int) -> str | None:
        """The limit of a job on so many nodes."""
        fitting = [int(least) for least in self.time_limits if int(least) <= nodes]
        return self.time_limits[str(max(fitting))] if fitting else self.time_limit


class Excluded(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Nodes that no job should get. `since` is a date, so that a reader can ask whether it still holds."""

    nodes: tuple[str, ...]
    reason: str
    since: str


class Driver(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The driver that a site's GPU nodes were seen to have. A node measures its own: this one only warns."""

    version: str
    seen: str


class Cluster(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A cluster's profile. Whoever edits one never guesses: what no source says is named in `unverified`.

    summary         one line for lists.
    scheduler       "none": the nodes of a job are containers on this machine.
    cluster_names   Slurm's ClusterName there (scontrol show config).
    hosts           full host names, `*` for any run of characters: anchored, matched without regard to case.
    arch            of definitions/archs, for a job that names neither arch nor image.
    line            of definitions/stacks, of that arch's images where a job says none.
    partition       the default; `partitions` describes those that are known, by name.
    cpu_partition   of nodes without GPUs: for what comes after a run, and sandboxes; None: not known.
    account, qos    as a rule in the user's own file.
    needs_account   a real submission without an account is refused: the site takes none.
    gpus_per_node, gpu_type, cpus_per_node, memory_per_node   of one node; the type as GRES calls it.
    ray_cpus        CPUs for Ray where Slurm's count misleads (a GH200 node reports 288); None: ask.
    gpu_directive   "gres": --gres=gpu:TYPE:N; "gpus-per-node": --gpus-per-node=N; "none": whole nodes only.
    exclusive       ask for whole nodes.
    engines         the order in which engines are tried there.
    interface       of node addresses, Ray, NCCL, GLOO and vLLM; None: the node's first that is not lo.
    interfaces      by purpose ("ray", "nccl", "gloo") where one differs; NCCL takes beginnings of names.
    node_suffix     what is added to a node's short name to get its name on that interface ("i" at Juelich).
    exclude         see Excluded.
    modules         loaded by the script before anything else.
    internet        whether compute nodes have it; None: not known.
    egress          how jobs that ask for it get out where they have none: see slurm.egress.WayOut.
    scratch, cache, runs   folders on file systems that all nodes share; $NAMES are the login node's.
    login           host names to which `ssh` reaches a login node from inside a job.
    time_limit      the default for jobs that say none.
    environment     of Ray and the command there, unless the user says otherwise.
    sbatch          further options of every job: see Job.sbatch.
    unverified      field -> why it is doubtful, for `runner doctor`.
    """

    summary: str
    scheduler: Literal["none", "slurm"]
    cluster_names: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    arch: str | None = None
    line: str | None = None
    partition: str | None = None
    partitions: dict[str, Partition] = {}
    cpu_partition: str | None = None
    account: str | None = None
    qos: str | None = None
    needs_account: bool = False
    gpus_per_node: int | None = None
    gpu_type: str | None = None
    cpus_per_node: int | None = None
    memory_per_node: str | None = None
    ray_cpus: int | None = None
    gpu_directive: GpuDirective = "gpus-per-node"
    exclusive: bool = False
    engines: tuple[str, ...] = ("apptainer", "podman", "docker")
    interface: str | None = None
    interfaces: dict[Literal["ray", "nccl", "gloo"], str] = {}
    node_suffix: str = ""
    fabric: Fabric | None = None
    exclude: tuple[Excluded, ...] = ()
    modules: tuple[str, ...] = ()
    internet: bool | None = None
    egress: WayOut | None = None
    scratch: str | None = None
    cache: str | None = None
    runs: str | None = None
    login: tuple[str, ...] = ()
    time_limit: str | None = None
    driver: Driver | None = None
    environment: dict[str, str] = {}
    sbatch: dict[str, str | int | bool] = {}
    unverified: dict[str, str] = {}


class Profile(Struct, frozen=True, kw_only=True):
    """A cluster as it counts for a user, and for each field where its value came from.

    A source is "default", the cluster's file, the user's file, or "USER'S over CLUSTER'S" for a table that
    has keys of both.
    """

    name: str
    cluster: Cluster
    sources: dict[str, str]


FIELDS = tuple(each.name for each in structs.fields(Cluster))
OWN = Mapping[str, Mapping[str, Any]]
"""The tables `[clusters.NAME]` of the user's file: name -> key of Cluster -> value."""
JOINED = ("egress", "environment", "fabric", "interfaces", "partitions", "sbatch")
"""Tables of which the user's keys join the cluster's; every other value of the user's takes the place."""
BASIS = "generic"
"""What a cluster stands on that only the user's file has."""


def names(own: OWN = MappingProxyType({})) -> tuple[str, ...]:
    """All clusters that there is a file for, and those of the user's own."""
    return tuple(sorted({*_files(), *own}))


def load(name: str, own: OWN = MappingProxyType({}), file: str | None = None) -> Cluster:
    """The cluster of that name with the user's values laid over; errors as of `profile`."""
    return profile(name, own, file).cluster


def profile(name: str, own: OWN = MappingProxyType({}), file: str | None = None) -> Profile:
    """The cluster of that name: the user's table over the cluster's file over the defaults.

    `own` is the whole table of settings.clusters, `file` the user's file as errors name it. A name that is
    only there is a cluster of the user's own, based on `generic`. UnknownNameError with a did-you-mean for a
    name or a key that there is not, InvalidFileError for a wrong value.
    """
    if name not in (known := names(own)):
        raise unknown("cluster", name, known)
    over = dict(own.get(name, {}))
    ours, where = _shipped(name if name in _files() else BASIS)
    theirs = file or str(settings.user_file())
    joined = {key: _join(ours.get(key, {}), over[key]) for key in JOINED if key in over}
    if over:
        # Alone first, so that a complaint names the file that holds what is wrong.
        alone = {"summary": "", "scheduler": "slurm", **over, **joined}
        decode.convert(alone, Cluster, f"{theirs}, [clusters.{name}]")
    if name not in _files():
        ours = {**ours, "summary": f"your own, in {theirs}", "unverified": {}}
    # What the user says of a field is no longer doubtful.
    doubts = {key: why for key, why in ours.get("unverified", {}).items() if key.split(".")[0] not in over}
    merged = {**ours, "unverified": doubts, **over, **joined}
    cluster = decode.convert(merged, Cluster, f"{theirs}, [clusters.{name}]" if over else where)
    for wrong in _complaints(cluster):
        raise InvalidFileError(f"{f'{theirs}, [clusters.{name}]' if over else where}: {wrong}")
    sources = {key: _source(key, ours, over, where, theirs) for key in FIELDS}
    return Profile(name=name, cluster=cluster, sources=sources)


def _join(ours: Any, theirs: Any) -> Any:
    """Their keys over ours, in tables within tables too; what is no table is theirs, for a complaint."""
    if not (isinstance(ours, Mapping) and isinstance(theirs, Mapping)):
        return theirs
    return {**ours, **{key: _join(ours.get(key), value) for key, value in theirs.items()}}


ACCOUNT = "SBATCH_ACCOUNT"


def accounted(profile: Profile, environment: Mapping[str, str] = os.environ) -> Profile:
    """With the account of sbatch's own variable, over that of a file, as sbatch has it. Not within a job,
    whose variable may be of its batch script, and not where there is no Slurm."""
    account = environment.get(ACCOUNT)
    if not account or "SLURM_JOB_ID" in environment or profile.cluster.scheduler != "slurm":
        return profile
    cluster = structs.replace(profile.cluster, account=account)
    return structs.replace(profile, cluster=cluster, sources={**profile.sources, "account": ACCOUNT})


def folder(profile: Profile, name: str, environment: Mapping[str, str] = os.environ) -> str | None:
    """The folder `name` (scratch, cache, runs) of a cluster, its $NAMES and ~ expanded; None: not said.

    InvalidFileError for a variable that is not set, or set to nothing.
    """
    written: str | None = getattr(profile.cluster, name)
    if written is None:
        return None

    def value(found: re.Match[str]) -> str:
        variable = found["braced"] or found["plain"]
        if not environment.get(variable):
            raise InvalidFileError(
                f"{name} of the cluster {profile.name} ({profile.sources[name]}) is {written}: "
                f"${variable} is not set here",
                f"export {variable}=/a/shared/folder, or say {name} in [clusters.{profile.name}] of "
                f"{settings.user_file()}",
            )
        return environment[variable]

    expanded = _VARIABLE.sub(value, written)
    if not expanded.startswith(("/", "~")):
        raise InvalidFileError(
            f"{name} of the cluster {profile.name} ({profile.sources[name]}) is {expanded!r}, expected an "
            "absolute path",
            f"runner config --cluster {profile.name}",
        )
    return str(Path(expanded).expanduser())


def variables(cluster: Cluster) -> tuple[str, ...]:
    """Those that its folders are written with: a command on its behalf needs them."""
    written = " ".join(each for each in (cluster.scratch, cluster.cache, cluster.runs) if each)
    return tuple(dict.fromkeys(found["braced"] or found["plain"] for found in _VARIABLE.finditer(written)))


_VARIABLE = re.compile(r"\$(?:\{(?P<braced>[A-Za-z_]\w*)\}|(?P<plain>[A-Za-z_]\w*))")
_TIME = re.compile(r"\d+|(?:\d+-)?\d+(?::\d\d){1,2}|\d+-\d+")
_DATE = re.compile(r"\d{4}-\d\d(-\d\d)?")


def _source(key: str, ours: Mapping[str, Any], over: Mapping[str, Any], where: str, theirs: str) -> str:
    if key in over:
        return f"{theirs} over {where}" if key in JOINED and ours.get(key) else theirs
    return where if key in ours else "default"


@functools.cache
def _files() -> tuple[str, ...]:
    there = (resources.files("slurm") / "clusters").iterdir()
    return tuple(sorted(file.name.removesuffix(".toml") for file in there if file.name.endswith(".toml")))


@functools.cache
def _shipped(name: str) -> tuple[Mapping[str, Any], str]:
    """What a cluster's file really says, checked, and how the file is named."""
    where = f"slurm/clusters/{name}.toml"
    text = (resources.files("slurm") / "clusters" / f"{name}.toml").read_text()
    return MappingProxyType(decode.table(text, Cluster, where)), where


def _complaints(cluster: Cluster) -> Iterator[str]:
    """What types cannot say."""
    for key in cluster.unverified:
        if key.split(".")[0] not in FIELDS:
            yield f"unverified names {key!r}, which is no field"
    for since, what in (
        *((each.since, "exclude: since") for each in cluster.exclude),
        *([(cluster.driver.seen, "driver: seen")] if cluster.driver else ()),
    ):
        if not _DATE.fullmatch(since):
            yield f"{what} is a date such as 2026-10-09, found {since!r}"
    if cluster.driver and not cluster.driver.version.replace(".", "").isdigit():
        yield f"driver: version is written like 565.57.01, found {cluster.driver.version!r}"
    if not cluster.engines:
        yield "engines is empty"
    if cluster.egress:
        yield from egress.complaints(cluster.egress)
    yield from _sizes("", cluster)
    for name, each in cluster.partitions.items():
        yield from _sizes(f"partitions.{name}: ", each)


def _sizes(where: str, each: Cluster | Partition) -> Iterator[str]:
    by_nodes = each.time_limits if isinstance(each, Partition) else {}
    for nodes in by_nodes:
        if not re.fullmatch("[1-9][0-9]*", nodes):
            yield f"{where}time_limits has numbers of nodes for keys, found {nodes!r}"
    for limit in (each.time_limit, *by_nodes.values()):
        if limit is not None and not _TIME.fullmatch(limit):
            yield f"{where}a time limit is written like 2-00:00:00, found {limit!r}"
    for key, least in (("gpus_per_node", 0), ("cpus_per_node", 1), ("ray_cpus", 1), ("nodes", 1)):
        number = getattr(each, key, None)
        if number is not None and number < least:
            yield f"{where}{key} is {number}"
