"""Hosts of a private Slurm: their own processes and mounts, and where asked their own network."""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

LIVES = ("setpriv", "--pdeathsig=KILL")  # whoever kills the tests ends the daemons too
SPACES = (*LIVES, "unshare", "--pid", "--mount", "--mount-proc", "--fork", "--kill-child=KILL")
# Process numbers and mounts of its own: all that was started in there ends with it, and can be counted.
# A shell comes first, because a first process has to reap what others left.
APART = (*SPACES, "sh", "-c", '"$@" & wait $!', "sh")
HOST = """
mount --rbind /sys/fs/cgroup "$2"
mount -t sysfs sysfs /sys
mount --move "$2" /sys/fs/cgroup
mount --bind "$3" /etc/hosts
hostname "$1"
shift 3
"$@" & wait $!
"""


class Net:
    """A bridge with an address of this machine's, and on it one network namespace for each host.

    Nothing leads from there to other networks. `number`, below 200, tells such networks apart.
    """

    def __init__(self, folder: Path, number: int, names: Sequence[str]) -> None:
        self.folder = folder
        self.mark = f"sw{number}"
        self.gateway = f"10.213.{number}.1"
        self.addresses = {name: f"10.213.{number}.{10 + each}" for each, name in enumerate(names)}
        (folder / "cgroup").mkdir()
        known = [f"{address} {name}" for name, address in self.addresses.items()]
        (folder / "hosts").write_text("\n".join(["127.0.0.1 localhost", *known, ""]))
        try:
            self.remove()  # what tests left that were killed: nobody else has this number now
            self._make()
        except BaseException:
            self.remove()
            raise

    def _make(self) -> None:
        ip("link", "add", self.mark, "type", "bridge")
        ip("addr", "add", f"{self.gateway}/24", "dev", self.mark)
        ip("link", "set", self.mark, "up")
        for each, (name, address) in enumerate(self.addresses.items()):
            space, outer = self.space(name), f"{self.mark}v{each}"
            ip("netns", "add", space)
            ip("link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", space)
            ip("link", "set", outer, "master", self.mark, "up")
            ip("-n", space, "addr", "add", f"{address}/24", "dev", "eth0")
            ip("-n", space, "link", "set", "eth0", "up")
            ip("-n", space, "link", "set", "lo", "up")

    def space(self, name: str) -> str:
        return f"{self.mark}-{name}"

    def within(self, name: str) -> list[str]:
        """What to put before a command that is to run as that host."""
        net = ["nsenter", f"--net=/run/netns/{self.space(name)}"]
        given = [name, str(self.folder / "cgroup"), str(self.folder / "hosts")]
        return [*net, *SPACES, "--uts", "sh", "-ec", HOST, "sh", *given]

    def remove(self) -> None:
        """Also what tests left that were killed; their processes may go on, without a network.

        A namespace ends some time after its name has gone, and not before its last process. So the links are
        deleted by themselves, and with each its other end: their names are free when this returns.
        """
        for link in self.links():
            ip("link", "delete", link, check=False)  # it may be going with its namespace just now
        there = Path("/run/netns")
        for space in there.glob(f"{self.mark}-*") if there.exists() else ():
            ip("netns", "delete", space.name, check=False)
        assert not self.links(), f"links are left: {self.links()}"

    def links(self) -> list[str]:
        """Those of its links that are this machine's: the bridge, and the outer ends of its hosts'."""
        ours = re.compile(rf"{self.mark}(v\d+)?")
        return [name for _, name in socket.if_nameindex() if ours.fullmatch(name)]


def ip(*words: str, check: bool = True) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"
