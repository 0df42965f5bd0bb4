"""slurm.conf and gres.conf of a private Slurm, as text."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from msgspec import Struct

from tests.live.parts_slurm_net import Net

FIRST = 8  # ports before those of the nodes: slurmctld's, slurmdbd's, sshd's and some to spare
SWITCHED_OFF = (
    "SuspendProgram=/bin/true",
    "ResumeProgram=/bin/true",
    "SuspendTime=3600",
    "PrivateData=cloud",
)


class Shape(Struct, frozen=True, kw_only=True):
    """Some equal nodes and the partitions that they are all in. A node of two shapes is as the first says.

    names       of the nodes; () for `count` nodes prefix1, prefix2, …
    gres        as slurm.conf has it: "gpu:h100:4", "gpu:4"; memory in MB; limit: the partitions' MaxTime.
    """

    partitions: tuple[str, ...] = ("main",)
    count: int = 4
    prefix: str = "n"
    names: tuple[str, ...] = ()
    cpus: int = 8
    memory: int = 16000
    gres: str | None = "gpu:h100:4"
    features: tuple[str, ...] = ()
    limit: str = "UNLIMITED"
    exclusive: bool = False

    def nodes(self) -> tuple[str, ...]:
        return self.names or tuple(f"{self.prefix}{number + 1}" for number in range(self.count))


class Layout(Struct, frozen=True, kw_only=True):
    """Where a Slurm's files are, its first port, whether its nodes really run, and their network if any."""

    folder: Path
    base: int
    real: bool
    net: Net | None


def general(layout: Layout, cluster: str) -> list[str]:
    folder = layout.folder
    given = {
        "ClusterName": cluster,
        "SlurmctldHost": f"{socket.gethostname()}({layout.net.gateway if layout.net else '127.0.0.1'})",
        "SlurmctldPort": layout.base,
        "AuthType": "auth/munge",
        "AuthInfo": f"socket={folder / 'munge/socket'}",
        "CryptoType": "crypto/munge",
        "SlurmUser": "root",
        "SlurmdUser": "root",
        "StateSaveLocation": folder / "state",
        "SlurmdSpoolDir": folder / "spool/%n",
        "SlurmctldPidFile": folder / "slurmctld.pid",
        "SlurmdPidFile": folder / "spool/%n.pid",
        "SlurmdParameters": "config_overrides",
        "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none",
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_Core_Memory",
        "DefMemPerCPU": 500,
        "GresTypes": "gpu",
        "MpiDefault": "none",
        "SwitchType": "switch/none",
        "SchedulerType": "sched/backfill",
        "SchedulerParameters": "sched_interval=1,bf_interval=1,sched_min_interval=0,batch_sched_delay=0",
        "PropagateResourceLimits": "NONE",  # this machine's root may not raise limits
        "RebootProgram": "/bin/true",
        "ReturnToService": 2,
        "JobRequeue": 1,
        "MinJobAge": 300,
        "KillWait": 3,
        "InactiveLimit": 0,
        # Shorter than anywhere else, so that a node's death is noticed within 25 s; but the controller of
        # Slurm 24.11 lets a question lie for 5 s now and then.
        "SlurmdTimeout": 5,
        "MessageTimeout": 6,
        "TCPTimeout": 2,
    }
    # Switched off, to be switched on when a job needs them.
    return [f"{name}={value}" for name, value in given.items()] + [*([] if layout.real else SWITCHED_OFF)]


def hosts(layout: Layout, shapes: Sequence[Shape]) -> Iterator[str]:
    """Of nodes and partitions; the first partition is the default."""
    seen = list[str]()
    limits: dict[str, tuple[Shape, list[str]]] = {}
    for shape in shapes:
        for name in shape.nodes():
            if name not in seen:
                yield f"NodeName={name} {_where(layout, name, len(seen))} {_size(shape)}"
                seen.append(name)
        for partition in shape.partitions:
            limits.setdefault(partition, (shape, []))[1].extend(shape.nodes())
    for number, (partition, (shape, nodes)) in enumerate(limits.items()):
        default = "YES" if number == 0 else "NO"
        share = "EXCLUSIVE" if shape.exclusive else "NO"
        yield (
            f"PartitionName={partition} Nodes={','.join(nodes)} Default={default} MaxTime={shape.limit} "
            f"DefaultTime=10 OverSubscribe={share} State=UP"
        )


def _where(layout: Layout, name: str, number: int) -> str:
    if not layout.real:
        return "State=CLOUD"
    host, address = socket.gethostname(), "127.0.0.1"
    if layout.net:
        host, address = name, layout.net.addresses[name]
    return f"NodeHostname={host} NodeAddr={address} Port={layout.base + FIRST + number} State=UNKNOWN"


def _size(shape: Shape) -> str:
    gres = f" Gres={shape.gres}" if shape.gres else ""
    features = f" Features={','.join(shape.features)}" if shape.features else ""
    return f"CPUs={shape.cpus} RealMemory={shape.memory}{gres}{features}"


def gres(layout: Layout, shapes: Sequence[Shape]) -> Iterator[str]:
    """Each GPU is a device file like /dev/null: Slurm counts those, and reads its number off its name."""
    seen = set[str]()
    for shape in shapes:
        names = [name for name in shape.nodes() if name not in seen]
        seen |= set(names)
        if shape.gres is None or not names:
            continue
        name, *kind, count = shape.gres.split(":")
        where = f"Count={count}"
        if layout.real:
            for number in range(int(count)):
                _device(layout.folder / f"gpus/nvidia{number}")
            where = f"File={layout.folder}/gpus/nvidia[0-{int(count) - 1}]"
        typed = f" Type={kind[0]}" if kind else ""
        yield f"NodeName={','.join(names)} Name={name}{typed} {where}"


def _device(path: Path) -> None:
    if not path.exists():
        with contextlib.suppress(PermissionError):  # a container may forbid it; Slurm then only complains
            os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        path.touch()
