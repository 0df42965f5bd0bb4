"""Ways to Slurm's programs: this machine's own, or a login node's by ssh. (A third is in host_client.)"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from kit import shell
from slurm.answers import DATED, TIMES
from slurm.environment import passed, scrubbed, token

# Of a container's environment, that of a client which runs on behalf of the host.
_PASSED = ("HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "TERM", "SLURM_CONF", "SLURM_CLUSTERS")
HOST_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"
CONNECT = 4  # seconds for a login node to be reached


class Way(Protocol):
    """How one of Slurm's programs is started.

    name  completes "by …".  shared: the programs run here, and see this machine's files and user.
    """

    @property
    def name(self) -> str: ...

    @property
    def shared(self) -> bool: ...

    def argv(self, program: str, words: Sequence[str]) -> list[str]: ...

    def environment(self, given: Mapping[str, str]) -> dict[str, str]: ...


def as_host(environment: Mapping[str, str]) -> dict[str, str]:
    """What the host's client may know of the container that it is started from: nearly nothing.

    A job gets the environment of its submission: the image's PATH and library paths mean nothing outside.
    """
    told = {name: environment[name] for name in _PASSED if name in environment}
    return told | token(environment) | {"PATH": HOST_PATH}


class Own(Struct, frozen=True):
    """The programs on PATH."""

    name: str = "this machine's own client"
    shared: bool = True

    def argv(self, program: str, words: Sequence[str]) -> list[str]:
        return [program, *words]

    def environment(self, given: Mapping[str, str]) -> dict[str, str]:
        return passed(given)


class Remote(Struct, frozen=True):
    """A login node's, reached without a password or not at all. Its shell gets quoted words."""

    host: str
    shared: bool = False

    @property
    def name(self) -> str:
        return f"ssh {self.host}"

    def argv(self, program: str, words: Sequence[str]) -> list[str]:
        options = ["-o", "BatchMode=yes", "-o", f"ConnectTimeout={CONNECT}"]
        # ssh passes no variables on.
        dated = ["env", "=".join(TIMES)] if program in DATED else []
        command = shell.line([*dated, program, *words])
        return ["ssh", *options, "--", self.host, command]

    def environment(self, given: Mapping[str, str]) -> dict[str, str]:
        """ssh's own: none of it gets to the other side, and what ssh starts to get there may need it."""
        return scrubbed(given)


def caller() -> tuple[int, int]:
    """The user and group that the world outside takes this process for.

    In a user namespace (podman without root) they are not those that it sees of itself.
    """
    return _outside("uid", os.getuid()), _outside("gid", os.getgid())


def _outside(kind: str, number: int) -> int:
    try:
        lines = Path(f"/proc/self/{kind}_map").read_text().splitlines()
    except OSError:
        return number
    for line in lines:
        inside, outside, length = (int(each) for each in line.split())
        if inside <= number < inside + length:
            return outside + number - inside
    return number
