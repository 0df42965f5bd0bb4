"""The words of `apptainer exec` for a sandbox. Pure.

What a sandbox may do to the node: nothing of the host is seen but the agent's layer; no new privileges; and
root inside is the user outside, in a user namespace, without the system calls by which root could mount,
or make namespaces of its own. The network is the host's: no other lets a client in without root.

The folders of a sandbox are named relative to its own, in which the command is run: apptainer reads colons
and commas in a path as punctuation.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from msgspec import Struct

from containers.engine import Bind
from containers.mounts import mount_option
from kit import shell
from kit.errors import UsageError
from runner.sandboxes import reached, wished
from runner.sandboxes.nouns import Start

LOG, ENV, PROFILE, CONFIG, SHM, WORKDIR = "log", "env", "seccomp.json", "apptainer", "shm", "workdir"
"""In a sandbox's own folder. Its root's changes are in the folder `overlay` names."""
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
SANE = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
KEPT = ("PATH", "USER", "LOGNAME", "LANG", "APPTAINER_TMPDIR")

OWN = {"TINI_SUBREAPER": "1"}
"""Apptainer's first process is not tini, which would complain of that in every log."""
REFUSED = (
    "mount", "umount2", "pivot_root", "fsopen", "fsconfig", "fsmount", "fspick", "move_mount", "open_tree",
    "mount_setattr", "unshare", "setns", "bpf", "perf_event_open", "userfaultfd", "keyctl", "add_key",
    "request_key", "open_by_handle_at", "io_uring_setup",
)  # fmt: skip
"""A tmpfs of a sandbox's own would be memory that no limit of ours counts; the others are what Docker refuses
root without CAP_SYS_ADMIN, too."""
NAMESPACES = (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000)
"""The flags of clone(2) that make one."""


class Where(Struct, frozen=True, kw_only=True):
    """How far this host and the image go along. filter: apptainer can filter system calls here. folder: the
    image lacks the folder to start in, which is then bound."""

    filter: bool = True
    folder: bool = False


def overlay(state: str, id: str) -> str:
    """The name of the folder with a sandbox's changes. It is a sandbox's mark, too: the table of mounts of
    its starter has it."""
    return f"slipworks-overlay-{state}-{id}"


MARK = re.compile(r"/slipworks-overlay-([^/\s]+)-([0-9a-f]{16})\s")


def argv(start: Start, where: Where) -> list[str]:
    """The whole command, to be run in `start.folder`."""
    folder = Path(start.folder)
    words = [
        "apptainer", "--quiet", "exec",
        # A site's setuid helper would keep us from looking at our own processes.
        "--userns",
        # Root inside, for images expect to be; by newuidmap where the user has subordinate ids, and without
        # a library that only makes programs believe so.
        "--fakeroot", "--ignore-fakeroot-command",
        "--containall", "--no-home", "--no-mount=home,tmp,cwd,bind-paths,hostfs", "--no-eval", "--no-umask",
        f"--hostname={start.name}",
        f"--overlay={overlay(start.state, start.id)}",
        "--mount", mount_option(Bind(folder / SHM, "/dev/shm"), "ro"),  # else a tmpfs without a limit
        # The site's own binds are not for sandboxes; without this one few images know localhost.
        "--mount", mount_option(Bind(Path("/etc/hosts"), "/etc/hosts", read_only=True), "ro"),
        f"--env-file={ENV}",
        f"--pwd={workdir(start)}",
    ]  # fmt: skip
    if where.filter:
        words.append(f"--security=seccomp:{PROFILE}")
    if where.folder:
        words += ["--mount", mount_option(Bind(folder / WORKDIR, workdir(start)), "ro")]
    if home := start.secret.get(wished.HOME):  # of `A:B` the first would be a folder of the host
        words.append(f"--home={wished.folder(home, wished.HOME)}")
    return [*words, *start.image.mount, start.image.reference, *command(start)]


def command(start: Start) -> list[str]:
    """The server's, with an address and a port that are ours to say."""
    image = start.image
    return [
        *image.entrypoint,
        *image.command,
        "--host",
        reached.bindable(start.address),
        "--port",
        str(start.port),
    ]


def workdir(start: Start) -> str:
    return wished.folder(start.workdir) if start.workdir else wished.normal(start.image.workdir or "/")


def env_text(start: Start) -> str:
    """Assignments as apptainer reads them. UsageError for what is no variable of a shell."""
    both = {**OWN, **start.secret}
    if bad := [name for name in both if not NAME.fullmatch(name)]:
        raise UsageError(
            f"apptainer passes no variable of the name {bad[0][:100]!r}", "use letters, digits and _"
        )
    return "".join(f"{name}={shell.quote(value)}\n" for name, value in both.items() if name != wished.HOME)


def own_environment(start: Start, ours: dict[str, str]) -> dict[str, str]:
    """Of the command: nothing of the server's gets to where a sandbox could look, nor do APPTAINER_BIND and
    its like of the user's. Nothing is written to the home."""
    kept = {name: ours[name] for name in KEPT if name in ours}
    return {"PATH": ":".join(SANE), **kept, "HOME": start.folder, "TMPDIR": start.folder,
            "APPTAINER_CONFIGDIR": f"{start.folder}/{CONFIG}",
            "APPTAINER_CACHEDIR": f"{start.folder}/{CONFIG}"}  # fmt: skip


def profile() -> str:
    """What the kernel refuses a sandbox, in the form of seccomp profiles.

    clone3(2) has its flags in memory, where no filter sees them: without a tracer this action says ENOSYS,
    and every libc then uses clone(2). (Apptainer 1.4 knows no errno but EPERM, with which threads fail.)
    """
    flags: list[dict[str, Any]] = [
        {"names": ["clone"], "action": "SCMP_ACT_ERRNO",
         "args": [{"index": 0, "value": flag, "valueTwo": flag, "op": "SCMP_CMP_MASKED_EQ"}]}
        for flag in NAMESPACES
    ]  # fmt: skip
    machines = ["X86_64", "X86", "X32", "AARCH64", "ARM"]
    return json.dumps({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": [f"SCMP_ARCH_{each}" for each in machines],
        "syscalls": [
            {"names": list(REFUSED), "action": "SCMP_ACT_ERRNO"},
            {"names": ["clone3"], "action": "SCMP_ACT_TRACE"},
            *flags,
        ],
    })  # fmt: skip
