"""Sandboxes of apptainer, found by the kernel's tables alone: no file of anybody's has to be right.

Apptainer's own instances have a file in the home folder for each, on a cluster a home of many machines, and
their end is a question of that file. Here a sandbox is a plain command in a session of its own: a starter,
the servers of its file systems, and, in a PID namespace of its own, all that runs inside. The first two have
the folder of its changes among their mounts, by whose name they are known. What runs inside has other mounts,
and cannot look like another sandbox.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from runner.sandboxes import apptainer_words, processes

STARTER = "starter"


class Found(Struct, frozen=True, kw_only=True):
    """What runs of a sandbox outside of its namespace, and the first process inside.

    starter, first  0 where there is none, or none any more. servers: of its file systems.
    """

    id: str
    state: str
    starter: int = 0
    servers: tuple[int, ...] = ()
    first: int = 0

    @property
    def outside(self) -> tuple[int, ...]:
        return (*([self.starter] if self.starter else []), *self.servers)


def every() -> dict[str, Found]:
    """id -> what is there now of any sandbox of this user's. One pass over /proc; what has ended and waits to
    be asked for is not there."""
    own_mounts, own_pids = _link("self", "mnt"), processes.namespace("self")
    found: dict[str, Found] = {}
    inside: dict[int, int] = {}  # parent -> first process of a namespace below ours
    for pid in _pids():
        mounts = _link(str(pid), "mnt")
        if not mounts or mounts == own_mounts:
            continue
        if processes.namespace(pid) != own_pids:
            if (parent := _parent(pid)) not in inside:
                inside[parent] = pid
        elif mark := apptainer_words.MARK.search(_text(pid, "mountinfo")):
            state, id = mark.groups()
            one = found.get(id, Found(id=id, state=state))
            starter = _text(pid, "comm").startswith(STARTER)
            found[id] = Found(
                id=id, state=state, starter=pid if starter else one.starter,
                servers=one.servers if starter else (*one.servers, pid),
            )  # fmt: skip
    return {
        id: Found(id=id, state=one.state, starter=one.starter, servers=one.servers,
                  first=inside.get(one.starter, 0))
        for id, one in found.items()
    }  # fmt: skip


def begins(command: int) -> tuple[int, int]:
    """The starter of an `apptainer exec` that was begun just now, and the first process of the namespace that
    it made; zeros before that. Where the user has no subordinate ids the starter is the command's child."""
    own = processes.namespace("self")
    for starter in (command, *_children(command)):
        for pid in _children(starter):
            if processes.namespace(pid) not in ("", own):
                return starter, pid
    return 0, 0


def begun(first: int) -> bool:
    """Whether the sandbox's own command runs: before, its process is one more of apptainer's program."""
    program = _program(first)
    return bool(program) and any(_program(each) not in ("", program) for each in _children(first))


def inner(first: int) -> int:
    """The process that the sandbox was started for, by the sandbox's own numbers; 0 where there is none."""
    for pid in _children(first)[:1]:
        for line in _text(pid, "status").splitlines():
            if line.startswith("NSpid:"):
                return int(line.split()[-1])
    return 0


def _children(parent: int) -> list[int]:
    """The oldest first. Kernels without a list of them have a table of all processes."""
    if not Path("/proc/thread-self/children").exists():
        return sorted(pid for pid in _pids() if _parent(pid) == parent)
    try:
        threads = [each.name for each in Path(f"/proc/{parent}/task").iterdir()]
    except OSError:
        return []
    return sorted(int(word) for each in threads for word in _text(parent, f"task/{each}/children").split())


def _program(pid: int) -> str:
    try:
        return str(Path(f"/proc/{pid}/exe").readlink())
    except OSError:
        return ""


def threads(pid: int) -> int:
    """Of a process; 0 of one that has ended."""
    try:
        return sum(1 for _ in Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return 0


def folder(starter: int) -> Path | None:
    """A sandbox's own folder, from what its starter was told. The sandbox cannot change that."""
    told = _variables(starter)
    text = "".join(told.get(f"ENGINE_CONFIG{number}", "") for number in range(1, 1 + _chunks(told)))
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return Path(json.loads(text)["engineConfig"]["jsonConfig"]["cwd"])
    return None


def _chunks(told: dict[str, str]) -> int:
    number = told.get("ENGINE_CONFIG_CHUNKS", "")
    return int(number) if number.isdecimal() else 0


def _variables(pid: int) -> dict[str, str]:
    return dict(each.split("=", 1) for each in _text(pid, "environ").split("\0") if "=" in each)


def _pids() -> Iterator[int]:
    return (int(each.name) for each in Path("/proc").iterdir() if each.name.isdecimal())


def _parent(pid: int) -> int:
    one = processes.stat(pid)
    return one.parent if one else 0


def _link(pid: str, namespace: str) -> str:
    """Empty where it has ended, or may not be looked at."""
    try:
        return str(Path(f"/proc/{pid}/ns/{namespace}").readlink())
    except OSError:
        return ""


def _text(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text(errors="replace")
    except OSError:
        return ""
