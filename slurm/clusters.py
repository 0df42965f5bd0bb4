"""What is known of a place where jobs run: one file a cluster, in slurm/clusters/."""

from __future__ import annotations

from importlib import resources
from typing import Literal

from msgspec import Struct

from kit import decode
from kit.suggest import unknown

GpuDirective = Literal["gres", "gpus-per-node", "none"]


class Partition(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A partition as far as it differs from the cluster: None means as the cluster.

    time_limit  the longest that Slurm grants, as Slurm writes it ("2-00:00:00"); nodes: the most a job gets.
    """

    arch: str | None = None
    gpus_per_node: int | None = None
    gpu_type: str | None = None
    cpus_per_node: int | None = None
    memory_per_node: str | None = None
    time_limit: str | None = None
    nodes: int | None = None
    exclusive: bool | None = None


class Excluded(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Nodes that no job should get. `since` is a date, so that a reader can ask whether it still holds."""

    nodes: tuple[str, ...]
    reason: str
    since: str


class Driver(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The driver that a site's GPU nodes were seen to have. A node measures its own: this one only warns."""

    version: str
    seen: str


class Fabric(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The fast network between nodes, as a container needs it.

    kind         "slingshot" (libfabric, cxi), "infiniband" (verbs) or "ethernet".
    devices      globs of device files of the host that go inside: /dev/infiniband, /dev/cxi*.
    libraries    globs of the host's libraries that go inside, never its C library: NCCL's plugin, libfabric.
    environment  of Ray and the command, unless the user says otherwise.
    """

    kind: Literal["slingshot", "infiniband", "ethernet"]
    devices: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    environment: dict[str, str] = {}


class Cluster(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A cluster's profile. Whoever edits one never guesses: what no source says is named in `unverified`.

    summary         one line for lists.
    scheduler       "none": the nodes of a job are containers on this machine.
    cluster_names   Slurm's ClusterName there (scontrol show config).
    hosts           full host names, `*` for any run of characters: anchored, matched without regard to case.
    arch            of definitions/archs, for a job that names neither arch nor image.
    partition       the default; `partitions` describes those that are known, by name.
    account, qos    as a rule in the user's own file.
    gpus_per_node, gpu_type, cpus_per_node, memory_per_node   of one node; the type as GRES calls it.
    ray_cpus        CPUs for Ray where Slurm's count misleads (a GH200 node reports 288); None: ask.
    gpu_directive   "gres": --gres=gpu:TYPE:N; "gpus-per-node": --gpus-per-node=N; "none": whole nodes only.
    exclusive       ask for whole nodes.
    engines         the order in which engines are tried there.
    interface       of node addresses, Ray, NCCL, GLOO and vLLM; None: the node's first that is not lo.
    node_suffix     what is added to a node's short name to get its name on that interface ("i" at Juelich).
    exclude         see Excluded.
    modules         loaded by the script before anything else.
    internet        whether compute nodes have it; None: not known.
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
    partition: str | None = None
    partitions: dict[str, Partition] = {}
    account: str | None = None
    qos: str | None = None
    gpus_per_node: int | None = None
    gpu_type: str | None = None
    cpus_per_node: int | None = None
    memory_per_node: str | None = None
    ray_cpus: int | None = None
    gpu_directive: GpuDirective = "gpus-per-node"
    exclusive: bool = False
    engines: tuple[str, ...] = ("apptainer", "podman", "docker")
    interface: str | None = None
    node_suffix: str = ""
    fabric: Fabric | None = None
    exclude: tuple[Excluded, ...] = ()
    modules: tuple[str, ...] = ()
    internet: bool | None = None
    scratch: str | None = None
    cache: str | None = None
    runs: str | None = None
    login: tuple[str, ...] = ()
    time_limit: str | None = None
    driver: Driver | None = None
    environment: dict[str, str] = {}
    sbatch: dict[str, str | int | bool] = {}
    unverified: dict[str, str] = {}


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
