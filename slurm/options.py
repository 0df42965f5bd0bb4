"""What sbatch is asked for, from a cluster's profile and a job's resources. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from msgspec import Struct

from kit.errors import InvalidFileError, UnsupportedError
from kit.suggest import nearest
from slurm import sbatch_options
from slurm.clusters import Cluster, Partition
from slurm.script import Options, filename
from slurm.times import seconds

LOG = "slurm-%j.out"
"""What the batch script says, in the run folder: one file a job, a requeued job goes on in it."""

FAMILIES = (
    ("gres", "gpus-per-node", "gpus", "gpus-per-task", "gpus-per-socket"),
    ("cpus-per-task", "cpus-per-gpu"),
    ("mem", "mem-per-cpu", "mem-per-gpu"),
    ("requeue", "no-requeue"),
)
"""Options that say the same thing in different words: whoever gives one of them has said it."""

OTHERS_KEY = {
    "job-name": "name:", "nodes": "nodes:", "time": "time:", "signal": "warn:",
    "gpus-per-node": "gpus:", "gpus": "gpus:", "wrap": "run:", "export": "env:", "export-file": "env:",
}  # fmt: skip
"""Options that a job says in its own words."""

REFUSED = {
    "array": "one run folder is one job: submit it several times",
    "ntasks": "one container is started a node: cpus-per-task says what it gets",
    "ntasks-per-node": "one container is started a node: cpus-per-task says what it gets",
    "ntasks-per-core": "one container is started a node",
    "ntasks-per-socket": "one container is started a node",
    "ntasks-per-gpu": "one container is started a node",
    "comment": "a submission is found again by it",
    "clusters": "the queue of one cluster is asked",
    "parsable": "it says what sbatch prints",
    "quiet": "it says what sbatch prints",
    "wait": "it keeps sbatch from ending: runner logs --follow waits",
    "test-only": "nothing would be submitted: --dry-run prints the script",
    "help": "nothing would be submitted",
    "usage": "nothing would be submitted",
    "version": "nothing would be submitted",
}
"""Options that break what a run relies on, whether a job or a cluster's profile says them."""


def refusal(name: str, value: str | int | bool) -> str | None:
    """Why no job may have this option; None where one may, or says it in its own words (OTHERS_KEY)."""
    one_task = name.startswith("ntasks-per-") and str(value) == "1"
    return None if one_task or value is False else REFUSED.get(name)


class Asked(Struct, frozen=True, kw_only=True):
    """The options in the order of their lines, and what a user may want to know of them.

    notes     what may be wrong, one line each: for stderr.
    replaced  what the cluster's or the user's own options took the place of: for --explain.
    """

    options: Options
    notes: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()


def options(
    cluster: Cluster,
    *,
    name: str,
    run: Path,
    nodes: int,
    gpus: int = 0,
    time: str | None = None,
    warn: int | None = None,
    comment: str | None = None,
    sbatch: Mapping[str, str | int | bool] | None = None,
) -> Asked:
    """The options of a job's script.

    gpus    of one node.
    time    None: the cluster's default, or Slurm's own.
    warn    seconds before the end at which the script gets USR2; fewer where the job is short.
    sbatch  the user's own, sbatch's long names: they take the place of all others.
    UnsupportedError, in one line, for what the partition is known not to give.
    """
    own = dict(sbatch or {})
    _refuse(own, nodes)
    _refuse_clusters(cluster.sbatch)
    further = {**cluster.sbatch, **own}
    partition = _text(further.get("partition", cluster.partition))
    here = _merged(cluster, partition, nodes)
    time = time or _default_time(cluster, here)
    limit = _text(further.get("time", time))
    _check(here, partition, nodes, gpus, limit)
    found: Options = {
        "job-name": name,
        **_given(comment=comment, partition=cluster.partition, account=cluster.account, qos=cluster.qos),
        **_shape(cluster, here, nodes, gpus),
        **_given(time=time, signal=_signal(warn, limit), exclude=_excluded(cluster)),
        "requeue": True,
        "open-mode": "append",
        "output": filename(run, LOG),
    }
    replaced = [*_lay_over(found, cluster.sbatch, "the cluster's"), *_lay_over(found, own, "your")]
    return Asked(
        options={key: value for key, value in found.items() if value is not False},
        notes=tuple(_notes(cluster, here, partition, gpus, found)),
        replaced=tuple(replaced),
    )


def _shape(cluster: Cluster, here: Partition, nodes: int, gpus: int) -> Options:
    """How many nodes, and what of each."""
    return {
        "nodes": nodes,
        "ntasks-per-node": 1,
        **_gpus(cluster, here, gpus),
        **_share(cluster, here, gpus),
        "exclusive": bool(here.exclusive),
    }


def _text(value: str | int | bool | None) -> str | None:
    """What an option says; None where it says nothing."""
    return None if value is None or isinstance(value, bool) else str(value)


def _default_time(cluster: Cluster, here: Partition) -> str | None:
    """The cluster's, or as much of it as the partition gives."""
    usual, most = cluster.time_limit, here.time_limit
    return most if usual and most and seconds(most) < seconds(usual) else usual


def _given(**values: str | None) -> Options:
    return {key: value for key, value in values.items() if value is not None}


def _merged(cluster: Cluster, name: str | None, nodes: int) -> Partition:
    """The partition with the cluster's values where it has none of its own. Limits are only its own, and
    those of a job on so many nodes."""
    part = cluster.partitions.get(name or "", Partition())

    def of(field: str) -> object:
        own = getattr(part, field)
        return getattr(cluster, field) if own is None else own

    shared = ("gpus_per_node", "gpu_type", "cpus_per_node", "memory_per_node", "exclusive")
    return Partition(
        time_limit=part.longest(nodes), nodes=part.nodes, **{field: of(field) for field in shared}  # type: ignore[arg-type]
    )  # fmt: skip


def _refuse(own: Mapping[str, str | int | bool], nodes: int) -> None:
    for key, value in own.items():
        why = refusal(key, value) or ("say it in run: alone" if key == "wrap" else None)
        if why:
            raise UnsupportedError(f"sbatch.{key} cannot be used in a job: {why}")
    said = own.get("nodes", nodes)
    if str(said) != str(nodes):
        raise UnsupportedError(
            f"the job has nodes: {nodes}, and sbatch.nodes: {said}", "say it in nodes: alone"
        )


def _refuse_clusters(sbatch: Mapping[str, str | int | bool]) -> None:
    """What no job may say is no cluster's to say either; nor what each job says itself."""
    for key, value in sbatch.items():
        why = refusal(key, value)
        if key in OTHERS_KEY and value is not False:
            why = f"each job says it by {OTHERS_KEY[key]}"
        if why:
            raise UnsupportedError(
                f"the cluster's profile has sbatch.{key}, which cannot be used: {why}", "runner config"
            )


def _check(here: Partition, name: str | None, nodes: int, gpus: int, limit: str | None) -> None:
    """What the profile knows not to work. What it does not know is left to sbatch."""
    where = f"the partition {name}" if name else "this cluster"
    if here.nodes is not None and nodes > here.nodes:
        raise UnsupportedError(f"{where} gives a job at most {here.nodes} node(s), the job asks for {nodes}")
    if here.gpus_per_node is not None and gpus > here.gpus_per_node:
        raise UnsupportedError(
            f"a node of {where} has {here.gpus_per_node} GPU(s), the job asks for {gpus} a node",
            "gpus: counts those of one node",
        )
    if limit is None:
        return
    wanted = seconds(limit)
    if here.time_limit is not None and wanted > seconds(here.time_limit, "the cluster's time_limit"):
        raise UnsupportedError(f"{where} gives a job at most {here.time_limit}, the job asks for {limit}")


def _gpus(cluster: Cluster, here: Partition, gpus: int) -> Options:
    typed = f"{here.gpu_type}:{gpus}" if here.gpu_type else str(gpus)
    if not gpus or cluster.gpu_directive == "none":
        return {}
    return {"gres": f"gpu:{typed}"} if cluster.gpu_directive == "gres" else {"gpus-per-node": typed}


def _share(cluster: Cluster, here: Partition, gpus: int) -> Options:
    """CPUs and memory: of a whole node, or as many as its GPUs are a part of the node's."""
    parts = _parts(cluster, here, gpus)
    if parts is None:
        return {}
    taken, of = parts
    found: Options = {}
    if here.cpus_per_node:
        found["cpus-per-task"] = max(1, here.cpus_per_node * taken // of)
    if here.memory_per_node:
        found["mem"] = here.memory_per_node if taken == of else _part(here.memory_per_node, taken, of)
    return found


def _parts(cluster: Cluster, here: Partition, gpus: int) -> tuple[int, int] | None:
    """Which part of a node the job takes; None where that is not known."""
    if here.exclusive or cluster.gpu_directive == "none" or not here.gpus_per_node:
        return None if gpus and not here.exclusive and cluster.gpu_directive != "none" else (1, 1)
    return (gpus, here.gpus_per_node) if gpus else None


_MEMORY = re.compile(r"(\d+)([KMGT]?)B?", re.IGNORECASE)
_MEGABYTES = {"K": 1 / 1024, "": 1, "M": 1, "G": 1024, "T": 1024**2}


def _part(memory: str, taken: int, of: int) -> str:
    found = _MEMORY.fullmatch(memory)
    if not found:
        raise InvalidFileError(f"the cluster's memory_per_node is {memory!r}, expected a number such as 480G")
    return f"{int(int(found[1]) * _MEGABYTES[found[2].upper()] * taken / of)}M"


def _signal(warn: int | None, limit: str | None) -> str | None:
    """To the script alone (B:), which tells the nodes. USR2, for NCCL has its own use for USR1."""
    if warn is None:
        return None
    most = 65535.0 if limit is None else min(65535.0, seconds(limit) / 2)
    return f"B:USR2@{int(min(warn, most))}"


def _excluded(cluster: Cluster) -> str | None:
    return ",".join(node for each in cluster.exclude for node in each.nodes) or None


def _lay_over(found: Options, over: Mapping[str, str | int | bool], whose: str) -> Iterator[str]:
    """Puts options over those that are there, at the end; tells what gave way. Excluded nodes stay so."""
    for key, value in over.items():
        if key == "exclude":
            value = _joined(found.get(key), value)
        family = next((each for each in FAMILIES if key in each), (key,))
        for old in [each for each in found if each in family]:
            if found[old] is not False and (old, found[old]) != (key, value):
                yield f"{whose} option {_shown(key, value)} takes the place of {_shown(old, found[old])}"
            del found[old]
        found[key] = value


def _joined(there: str | int | bool | None, more: str | int | bool) -> str | int | bool:
    """Both lists of nodes. A path, which sbatch reads itself, and False take the place of what is there."""
    if not isinstance(there, str) or isinstance(more, bool) or "/" in str(more):
        return more
    return f"{there},{more}"


def _shown(key: str, value: str | int | bool) -> str:
    if value is False:
        return f"no {key}"
    return key if value is True else f"{key}={value}"


def _notes(
    cluster: Cluster, here: Partition, partition: str | None, gpus: int, found: Options
) -> Iterator[str]:
    if partition and cluster.partitions and partition not in cluster.partitions:
        meant = nearest(partition, cluster.partitions)
        known = f"did you mean {meant}?" if meant else f"known are {', '.join(sorted(cluster.partitions))}"
        yield f"note: the cluster's profile does not know the partition {partition}: {known}"
    if (
        not gpus
        and here.gpus_per_node
        and here.cpus_per_node
        and not any(key in found for key in FAMILIES[1])
    ):
        yield (
            "note: the job asks for no GPU, so Slurm's default decides how many CPUs it gets: "
            f"sbatch.cpus-per-task={here.cpus_per_node} asks for a whole node's"
        )
    for key in sorted(key for key in found if key not in sbatch_options.KNOWN):
        if meant := nearest(key, sbatch_options.KNOWN):
            yield f"note: no option {key} of sbatch is known here: did you mean {meant}?"
