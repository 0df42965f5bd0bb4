"""The daemons of a private Slurm: their configuration, their start and their end."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import re
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.live import parts_slurm_conf as conf
from tests.live.parts_slurm_conf import FIRST, Layout, Shape
from tests.live.parts_slurm_net import APART, LIVES, Net

PROGRAMS = {"slurmctld": "slurm-wlm", "slurmd": "slurm-wlm", "sbatch": "slurm-wlm", "munged": "munge"}
NOT_THEIRS = re.compile(
    r"SLURM|SBATCH|SRUN|SQUEUE|SACCT|SCANCEL|SINFO|PMI|CONTAINERS_|DOCKER_|XDG_RUNTIME_DIR"
)
ENVIRONMENT = {name: value for name, value in os.environ.items() if not NOT_THEIRS.match(name)}
"""What daemons start with, and users log in with: as these tests were started, whatever fixtures set since;
without what is of another Slurm, or of one user's engines."""
BLOCK = 64  # ports that one Slurm may use
LOWEST, BLOCKS = 17000, 128  # below the ports that the kernel hands out for outgoing connections


class Daemons:
    """Everything that runs for one Slurm, in a folder that holds all its files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.conf = folder / "slurm.conf"
        self.nodes: tuple[str, ...] = ()
        self.base = 0
        self.net: Net | None = None
        self._lock: socket.socket | None = None
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(
        self,
        shapes: Sequence[Shape],
        *,
        real: bool,
        cluster: str,
        prolog: str | None,
        accounting: bool,
        addresses: bool,
        extra: Sequence[str],
    ) -> None:
        self.base, self._lock = ports()
        names = tuple(dict.fromkeys(name for shape in shapes for name in shape.nodes()))
        self.nodes = names if real else ()
        assert len(self.nodes) < BLOCK - FIRST, "more nodes than ports"
        if addresses:
            self.net = Net(self.folder, (self.base - LOWEST) // BLOCK, names)
        for name in ("state", "spool", "log", "munge", "gpus"):
            (self.folder / name).mkdir(mode=0o755)
        lines: list[str] = []
        if prolog is not None:
            lines.append(f"TaskProlog={self._script('prolog', prolog)}")
        self._munge()
        if accounting:
            from tests.live import parts_slurm_accounts

            lines += parts_slurm_accounts.start(self, cluster)
        layout = Layout(folder=self.folder, base=self.base, real=real, net=self.net)
        self.conf.write_text(
            "\n".join([*conf.general(layout, cluster), *lines, *extra, *conf.hosts(layout, shapes), ""])
        )
        (self.folder / "gres.conf").write_text("\n".join([*conf.gres(layout, shapes), ""]))
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

    def _script(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        path.chmod(0o755)
        return path

    def start_node(self, name: str) -> None:
        slurmd = ["slurmd", "-D", "-N", name, "-f", str(self.conf)]
        self.spawn(name, [*(self.net.within(name) if self.net else APART), *slurmd])

    def spawn(self, name: str, argv: Sequence[str]) -> subprocess.Popen[bytes]:
        """Starts a daemon whose output goes to log/<name>."""
        with (self.folder / "log" / name).open("ab") as log:
            self._running[name] = subprocess.Popen(
                argv, env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        return self._running[name]

    def alive(self, name: str) -> bool:
        return self._running[name].poll() is None

    def kill(self, name: str) -> None:
        """The daemon and, of a node, everything in its namespace; returns when they are gone."""
        inside = [child for child in children(self._running[name].pid) if name in self.nodes]
        self._running[name].kill()
        self._running[name].wait(30)
        for each in inside:
            until(lambda each=each: gone(each), f"{name} to be empty", 30)

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
        if self.net:
            self.net.remove()
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


def ports() -> tuple[int, socket.socket]:
    """The first of BLOCK free ports that no other test session takes while the socket is open.

    Its name, which is in no folder, is the lock: the kernel gives it away once.
    """
    for number in range(BLOCKS):
        base = LOWEST + BLOCK * ((number + os.getpid()) % BLOCKS)
        lock = socket.socket(socket.AF_UNIX)
        try:
            lock.bind(f"\0slipworks-slurm-{base}")
            for port in range(base, base + BLOCK):
                with socket.socket() as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(("", port))
            return base, lock
        except OSError:
            lock.close()
    raise AssertionError("no block of free ports for a Slurm")


def gone(pid: int) -> bool:
    """Ended, if maybe not asked after yet. The first process of a namespace is the last to end there."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True


def children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def identity(user: str | None) -> dict[str, Any]:
    """What makes subprocess start something as that user; nothing for None."""
    if user is None:
        return {}
    entry = pwd.getpwnam(user)
    groups = [each.gr_gid for each in grp.getgrall() if user in each.gr_mem]
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": groups}
