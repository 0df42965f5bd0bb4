"""What is to be started on the nodes of a job: the plan that fixes change and `runner node` carries out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from msgspec import Struct
from msgspec.structs import replace

from kit import exact, files
from kit.errors import InvalidFileError
from runner.egress.plan import EgressPlan
from runner.staging.staged import Staged
from slurm.fabric import Fabric

if TYPE_CHECKING:
    from runner.facts import Facts


class RayPlan(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How Ray is started on a node. None and {}: not said by the user; a fix or Ray itself decides.

    ports                Ray's name of a port (see rays.PORTS) -> the port.
    object_store_memory  bytes.
    args                 further words for `ray start`, on every node.
    ready_within         seconds until all nodes must have joined.
    token_file           the job's secret, 0600, in the folder that all nodes see.
    """

    num_cpus: int | None = None
    num_gpus: int | None = None
    node_ip: str | None = None
    temp_dir: str | None = None
    ports: dict[str, int] = {}
    object_store_memory: int | None = None
    plasma_directory: str | None = None
    args: tuple[str, ...] = ()
    ready_within: float = 300.0
    token_file: str | None = None


class Service(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A program beside the command, in the container of one node or of all, ended with the job.

    name          in messages and in the name of its log.
    run           its command: a list of words, or a script for sh.
    env           variables for it alone.
    nodes         "head"; "all"; or "one": the last, which with more than one is not the head.
    ready         "port:8000" (something listens), "http://127.0.0.1:8000/health" (answers 2xx), "file:/path",
                  "run:COMMAND" (ends well), or None: ready when it has been started. The command starts when
                  all services are ready.
    ready_within  seconds; after them the job ends, with the end of the service's log.
    restart       how often it is started again in an attempt where it ended; after 1 s, 2 s, 4 s … 30 s.
    optional      the job goes on without it, with a warning, where it does not become ready or has ended.
    egress        it uses the job's way out of nodes without internet.
    A service that ends before the command does ends the job, unless it ends well and `ready` is None, may be
    started again or is optional. SLIPWORKS_SERVICE_<NAME> tells the command its address.
    """

    name: str
    run: str | tuple[str, ...]
    nodes: Literal["head", "all", "one"] = "all"
    ready: str | None = None
    ready_within: float = 120.0
    restart: int = 0
    optional: bool = False
    egress: bool = False
    env: dict[str, str] = {}


class Artifact(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Files of node 0's container that are kept in the run's folder `artifacts`.

    source  an absolute path inside; `*` is allowed. Copied when the command has ended, however it ended.
    every   seconds after which it is copied while the command runs, too; None: not before its end.
    """

    source: str
    every: float | None = None


class Launch(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One job as a node starts it.

    run_id       8 hex digits, unique to this run; in names of folders, containers and port blocks.
    nodes_here   how many of the job's nodes share one machine (local: all of them).
    env          for Ray and for the command; over the container's own environment.
    command_env  for the command alone (what must not reach Ray's daemons).
    interface    whose address a node uses; None: the first that is not lo.
    scratch      a folder, inside the container, for caches that outlive the job.
    silence      seconds without a sign of life after which a node counts as dead.
    grace        seconds that the command gets to end after TERM.
    attended     a launcher watches and gives signs of life; if it dies, so does the job.
    everywhere   without Ray: the command runs on every node, and MASTER_ADDR leads to node 0.
    services, artifacts   see there.
    checkpoints  the folder of the job's checkpoints, inside; in SLIPWORKS_CHECKPOINTS for the command.
    checkpoints_shared  other runs write there too.
    code         folders, inside, that come first on the import path of the command and of Ray's workers.
    interfaces   interface by purpose where they differ ("nccl", "gloo", "ray"); else `interface`.
    node_suffix  added to a node's short name for its name on the interface.
    ray_cpus     CPUs for Ray where the site's count misleads.
    fabric       what the site's network needs (see slurm.fabric.Fabric); its host files lie below FABRIC.
    driver_floor the oldest driver of the image's CUDA; None: not known.
    nccl         absolute path inside of the NCCL that the command must preload; None: the loader's choice.
    gpus         asked for on this node; None: not said.
    keep         names and prefixes (`WANDB_*`) of variables of the container that Ray and the command get
                 beside those that the environment fix lets through.
    preload      libraries for LD_PRELOAD of the command alone; each must be there, or the command cannot run.
    library_path folders at the end of LD_LIBRARY_PATH, of Ray and of the command.
    drop         names of the container's variables that neither Ray nor the command gets.
    hooks        folders, inside, that come first on the import path of the command alone.
    withheld     names of variables that Ray and the services get and the command itself does not.
    limits       "memlock" and "nofile" -> the soft limit that a node takes before it starts anything;
                 -1: none at all.
    datasets_key what data sets are tokenized for beside what the command names (see fixes/datasets_cache.py).
    restarts     how many more attempts may follow this one.
    secrets      names of the variables that secrets.json must have.
    env_files    name of a variable -> the file inside that has its value; read when an attempt begins.
    path         folders at the end of PATH, of Ray and of the command.
    internet     whether the node has it; None: not known.
    egress       the way out of nodes without internet, where the job asks for it.
    staged       models and data sets in the cache, which must be there.
    sandboxes    seconds that the job's own server of sandboxes has to answer; None: there is none.
    netrc        the host of which a netrc of each node's own has the code server's key; None: there is none.
    """

    run_id: str
    name: str
    command: tuple[str, ...]
    nodes: int = 1
    nodes_here: int = 1
    workdir: str | None = None
    env: dict[str, str] = {}
    command_env: dict[str, str] = {}
    ray: RayPlan | None = None
    interface: str | None = None
    scratch: str | None = None
    silence: float = 20.0
    grace: float = 10.0
    attended: bool = False
    everywhere: bool = False
    services: tuple[Service, ...] = ()
    artifacts: tuple[Artifact, ...] = ()
    checkpoints: str | None = None
    checkpoints_shared: bool = False
    code: tuple[str, ...] = ()
    interfaces: dict[str, str] = {}
    node_suffix: str = ""
    ray_cpus: int | None = None
    fabric: Fabric | None = None
    driver_floor: str | None = None
    nccl: str | None = None
    gpus: int | None = None
    keep: tuple[str, ...] = ()
    preload: tuple[str, ...] = ()
    library_path: tuple[str, ...] = ()
    internet: bool | None = None
    egress: EgressPlan | None = None
    staged: tuple[Staged, ...] = ()
    drop: tuple[str, ...] = ()
    hooks: tuple[str, ...] = ()
    withheld: tuple[str, ...] = ()
    limits: dict[str, int] = {}
    datasets_key: str | None = None
    restarts: int = 0
    secrets: tuple[str, ...] = ()
    path: tuple[str, ...] = ()
    env_files: dict[str, str] = {}
    netrc: str | None = None
    sandboxes: float | None = None


def write(launch: Launch, path: Path) -> None:
    """Puts the plan in place, atomically. The environment may be private: 0600."""
    files.write(path, exact.encode(launch), mode=0o600)


def read(path: Path) -> Launch:
    """The plan that `write` left."""
    try:
        return exact.decode(path.read_bytes(), Launch)
    except (OSError, ValueError) as bad:
        raise InvalidFileError(f"cannot read the launch plan {path}: {bad}") from bad


def said(name: str, facts: Facts, launch: Launch) -> bool:
    """Whether the user, or the image, has set this variable; then no fix may."""
    return name in launch.env or name in facts.env


def with_env(facts: Facts, launch: Launch, defaults: dict[str, str]) -> Launch:
    """The launch with those of `defaults` that nobody has set."""
    missing = {name: value for name, value in defaults.items() if not said(name, facts, launch)}
    return replace(launch, env={**launch.env, **missing})


def with_ray(launch: Launch, **defaults: object) -> Launch:
    """The launch with Ray's fields set where they are None."""
    if launch.ray is None:
        return launch
    missing = {name: value for name, value in defaults.items() if getattr(launch.ray, name) is None}
    return replace(launch, ray=replace(launch.ray, **missing))
