"""The daemons of a private Slurm: their configuration, their start and their end."""

from __future__ import annotations

import contextlib
import fcntl
import grp
import os
import pwd
import re
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from msgspec import Struct

PROGRAMS = {"slurmctld": "slurm-wlm", "slurmd": "slurm-wlm", "sbatch": "slurm-wlm", "munged": "munge"}
SLURMS = re.compile(r"SLURM|SBATCH|SRUN|SQUEUE|SACCT|SCANCEL|SINFO|PMI")
BLOCK = 64  # ports that one Slurm may use
LOWEST, BLOCKS = 17000, 128  # below the ports that the kernel hands out for outgoing connections
LIVES = ("setpriv", "--pdeathsig=KILL")  # whoever kills the tests ends the daemons too
# Process numbers and mounts of its own: all that was started in there ends with it, and can be counted.
# A shell comes first, because a first process has to reap what others left.
APART = (
    *LIVES, "unshare", "--pid", "--mount", "--mount-proc", "--fork", "--kill-child=KILL",
    "sh", "-c", '"$@" & wait $!', "sh",
)  # fmt: skip


class Shape(Struct, frozen=True, kw_only=True):
    """Some equal nodes and the partitions that they are all in. A node of two shapes is as the first says.

    names       of the nodes; () for `count` nodes prefix1, prefix2, …
    gres        as slurm.conf has it: "gpu:h100:4"; memory in MB; limit: the partitions' MaxTime.
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


class Daemons:
    """Everything that runs for one Slurm, in a folder that holds all its files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.conf = folder / "slurm.conf"
        self.nodes: tuple[str, ...] = ()
        self.base = 0
        self._lock: IO[str] | None = None
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(
        self,
        shapes: Sequence[Shape],
        *,
        real: bool,
        cluster: str,
        prolog: str | None,
        accounting: bool,
        extra: Sequence[str],
    ) -> None:
        self.base, self._lock = ports()
        names = [name for shape in shapes for name in shape.nodes()]
        self.nodes = tuple(dict.fromkeys(names)) if real else ()
        assert len(self.nodes) < BLOCK - 4, "more nodes than ports"
        for name in ("state", "spool", "log", "munge", "gpus"):
            (self.folder / name).mkdir(mode=0o755)
        lines = list(extra)
        if prolog is not None:
            lines.append(f"TaskProlog={self._script('prolog', prolog)}")
        self._munge()
        if accounting:
            from tests.live import slurm_accounts

            lines += slurm_accounts.start(self, cluster)
        self.conf.write_text(
            "\n".join([*self._general(cluster, real), *lines, *self._hosts(shapes, real), ""])
        )
        (self.folder / "gres.conf").write_text("\n".join([*self._gres(shapes, real), ""]))
        self.spawn("slurmctld", [*APART, "slurmctld", "-D", "-i", "-f", str(self.conf)])
        for name in self.nodes:
            self.start_node(name)

    def _munge(self) -> None:
        folder = self.folder / "munge"
        (folder / "key").write_bytes(os.urandom(128))
        (folder / "key").chmod(0o600)
        files = {
            "socket": "socket",
            "key-file": "key",
            "pid-file": "pid",
            "log-file": "log",
            "seed-file": "seed",
        }
        argv = [f"--{option}={folder / name}" for option, name in files.items()]
        self.spawn("munged", [*LIVES, "munged", "--foreground", "--num-threads=2", *argv])
        until((folder / "socket").exists, "munged's socket", 20, self.logs)

    def _general(self, cluster: str, real: bool) -> list[str]:
        folder = self.folder
        given = {
            "ClusterName": cluster,
            "SlurmctldHost": f"{socket.gethostname()}(127.0.0.1)",
            "SlurmctldPort": self.base,
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
            "GresTypes": "gpu",
            "MpiDefault": "none",
            "PropagateResourceLimits": "NONE",  # this machine's root may not raise limits
            "SwitchType": "switch/none",
            "ReturnToService": 2,
            "JobRequeue": 1,
            "KillWait": 3,
            "SlurmdTimeout": 5,
            "InactiveLimit": 0,
            "MessageTimeout": 3,
            "DefMemPerCPU": 500,
            "TCPTimeout": 2,
            "MinJobAge": 300,
            "SchedulerParameters": "sched_interval=1,bf_interval=1,sched_min_interval=0,batch_sched_delay=0",
            "SchedulerType": "sched/backfill",
            "RebootProgram": "/bin/true",
        }
        if not real:  # switched off, to be switched on when a job needs them
            given |= {
                "SuspendProgram": "/bin/true",
                "ResumeProgram": "/bin/true",
                "SuspendTime": 3600,
                "PrivateData": "cloud",
            }
        return [f"{name}={value}" for name, value in given.items()]

    def _hosts(self, shapes: Sequence[Shape], real: bool) -> Iterator[str]:
        port, seen = self.base + 4, list[str]()
        limits: dict[str, tuple[Shape, list[str]]] = {}
        for shape in shapes:
            gres = f" Gres={shape.gres}" if shape.gres else ""
            features = f" Features={','.join(shape.features)}" if shape.features else ""
            for name in sorted(set(shape.nodes()) - set(seen), key=shape.nodes().index):
                seen.append(name)
                where = f"NodeHostname={socket.gethostname()} NodeAddr=127.0.0.1 Port={port} State=UNKNOWN"
                size = f"CPUs={shape.cpus} RealMemory={shape.memory}{gres}{features}"
                yield f"NodeName={name} {where if real else 'State=CLOUD'} {size}"
                port += 1
            for partition in shape.partitions:
                limits.setdefault(partition, (shape, []))[1].extend(shape.nodes())
        for number, (partition, (shape, nodes)) in enumerate(limits.items()):
            default = "YES" if number == 0 else "NO"
            share = "EXCLUSIVE" if shape.exclusive else "NO"
            yield (
                f"PartitionName={partition} Nodes={','.join(nodes)} Default={default} "
                f"MaxTime={shape.limit} DefaultTime=10 OverSubscribe={share} State=UP"
            )

    def _gres(self, shapes: Sequence[Shape], real: bool) -> Iterator[str]:
        """Each GPU is a device file like /dev/null: Slurm counts those, and reads its number off its name."""
        seen = set[str]()
        for shape in shapes:
            if shape.gres is None:
                continue
            name, kind, count = shape.gres.split(":")
            where = f"Count={count}"
            if real:
                for number in range(int(count)):
                    device(self.folder / f"gpus/nvidia{number}")
                where = f"File={self.folder}/gpus/nvidia[0-{int(count) - 1}]"
            if names := sorted(set(shape.nodes()) - seen):
                yield f"NodeName={','.join(names)} Name={name} Type={kind} {where}"
            seen |= set(names)

    def _script(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        path.chmod(0o755)
        return path

    def start_node(self, name: str) -> None:
        self.spawn(name, [*APART, "slurmd", "-D", "-N", name, "-f", str(self.conf)])

    def spawn(self, name: str, argv: Sequence[str]) -> subprocess.Popen[bytes]:
        """Starts a daemon whose output goes to log/<name>."""
        env = {key: value for key, value in os.environ.items() if not SLURMS.match(key)}
        with (self.folder / "log" / name).open("ab") as log:
            self._running[name] = subprocess.Popen(
                argv, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        return self._running[name]

    def alive(self, name: str) -> bool:
        return self._running[name].poll() is None

    def kill(self, name: str) -> None:
        """The daemon and, of a node, everything in its namespace; returns when they are gone."""
        inside = [child for child in children(self._running[name].pid) if name in self.nodes]
        self._running[name].kill()
        self._running[name].wait(30)
        for each in inside:
            until(lambda each=each: not Path(f"/proc/{each}").exists(), f"{name} to be empty", 30)

    def processes(self, name: str) -> list[str]:
        if not self.alive(name):
            return []
        (first,) = children(self._running[name].pid)
        own = {first, *children(first)[:1]}
        space = Path(f"/proc/{first}/ns/pid").readlink()
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) in own:
                continue
            with contextlib.suppress(OSError):
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                if line and (entry / "ns/pid").readlink() == space:
                    found.append(line)
        return found

    def end(self) -> None:
        """Nodes first; what they ran ends with them. Whatever happens, nothing is left."""
        for name in [*self.nodes, *(name for name in self._running if name not in self.nodes)]:
            if name in self._running and self.alive(name):
                self.kill(name)
        if self._lock:
            self._lock.close()

    def logs(self) -> str:
        texts = {
            path.name: path.read_text(errors="replace") for path in sorted((self.folder / "log").iterdir())
        }
        return "\n".join(f"--- {name}\n{text[-1500:]}" for name, text in texts.items() if text)


def until(
    done: Callable[[], bool],
    what: str,
    seconds: float,
    found: Callable[[], str] = lambda: "nothing more is known",
) -> None:
    """Looks again until it is so. Neither Slurm nor /proc tells of changes by itself."""
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}: {found()}"
        time.sleep(0.05)


def ports() -> tuple[int, IO[str]]:
    """The first of BLOCK free ports that no other test session will take while the file is open."""
    for number in range(BLOCKS):
        base = LOWEST + BLOCK * ((number + os.getpid()) % BLOCKS)
        lock = Path(f"/tmp/slipworks-slurm-ports-{base}").open("a")  # noqa: SIM115
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for port in range(base, base + BLOCK):
                with socket.socket() as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(("", port))
            return base, lock
        except OSError:
            lock.close()
    raise AssertionError("no block of free ports for a Slurm")


def device(path: Path) -> None:
    if not path.exists():
        with contextlib.suppress(PermissionError):  # a container may forbid it; Slurm then only complains
            os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        path.touch()


def children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def identity(user: str | None) -> dict[str, Any]:
    """What makes subprocess start something as that user; nothing for None."""
    if user is None:
        return {}
    entry = pwd.getpwnam(user)
    groups = [each.gr_gid for each in grp.getgrall() if user in each.gr_mem]
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": groups}
