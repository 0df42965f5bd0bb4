"""What engines trip over on a host, and how our own commands step around it.

Nothing here changes the host: an adaptation is a flag of a command of ours, said once.
"""

from __future__ import annotations

import functools
import getpass
import os
import resource
import shutil
import stat
from pathlib import Path
from typing import Literal

from msgspec import Struct

from kit import process, say

CAP_SYS_RESOURCE = 24
ENOUGH_IDS = 65536  # images use uids up to 65534 (nobody)
INITS = ("/usr/libexec/podman/catatonit", "/usr/lib/podman/catatonit", "/usr/bin/catatonit",
         "/usr/bin/tini-static")  # fmt: skip


class Point(Struct, frozen=True):
    """One thing that an engine needs from a host. `hint`: what makes it so, where it is lacking."""

    name: str
    ok: bool
    found: str
    hint: str | None = None


class Host(Struct, frozen=True, kw_only=True):
    """What was found out about this machine and this user. Plain data.

    cgroups       "v2", "hybrid" (v1 controllers beside a v2), "v1" or "none"
    capabilities  the effective set, as the kernel's bit mask
    every_capability  this process holds all that the kernel knows
    limits        of open files and of processes: what podman, which lowers its own, may hand on
    fuse          state of /dev/fuse for this user
    subids        subordinate uids and gids of this user, the smaller count
    user_namespaces  whether an ordinary user may make one
    runtime_dir   "ok", "absent" (not set) or "stale" (set, but no folder to write in)
    runtimes      OCI runtimes on PATH
    init          a static init for containers, where there is one
    mqueue        /dev/mqueue is there
    """

    root: bool
    user: str
    cgroups: Literal["v2", "hybrid", "v1", "none"]
    systemd: bool
    capabilities: int
    every_capability: bool
    limits: tuple[int, int]
    fuse: Literal["open", "closed", "missing"]
    subids: int
    user_namespaces: bool
    runtime_dir: Literal["ok", "absent", "stale"]
    runtimes: tuple[str, ...]
    init: str | None
    mqueue: bool = True

    @property
    def may_raise_limits(self) -> bool:
        return bool(self.capabilities >> CAP_SYS_RESOURCE & 1)

    def points(self) -> tuple[Point, ...]:
        """What `runner doctor` lists."""
        return _points(self)


@functools.cache
def facts() -> Host:
    """This machine, asked once a process."""
    return read(Path("/"))


def read(root: Path) -> Host:
    """Reads the files under `root` (a real tree, or one that a test made)."""
    status = _fields(root / "proc/self/status")
    effective = int(status.get("CapEff", "0"), 16)
    last = int(_text(root / "proc/sys/kernel/cap_last_cap") or "40")
    user = _user()
    return Host(
        root=os.geteuid() == 0,
        user=user,
        cgroups=_cgroups(root / "sys/fs/cgroup"),
        systemd=(root / "run/systemd/system").is_dir(),
        capabilities=effective,
        every_capability=effective == (1 << last + 1) - 1,
        limits=(
            _limit(resource.RLIMIT_NOFILE, root / "proc/sys/fs/nr_open"),
            _limit(resource.RLIMIT_NPROC, root / "proc/sys/kernel/pid_max"),
        ),
        fuse=_fuse(root / "dev/fuse"),
        subids=min(_subids(root / "etc/subuid", user), _subids(root / "etc/subgid", user, "-g")),
        user_namespaces=_user_namespaces(root / "proc/sys"),
        runtime_dir=_runtime_dir(os.environ.get("XDG_RUNTIME_DIR")),
        runtimes=tuple(name for name in ("crun", "runc") if shutil.which(name)),
        init=next((path for path in INITS if (root / path[1:]).exists()), None),
        mqueue=(root / "dev/mqueue").exists(),
    )


def podman_flags(host: Host) -> list[str]:
    """Flags of every podman command here, each with its reason. Pure but for what is said."""
    flags: list[str] = []
    if not host.systemd:  # the default asks systemd for a scope
        flags += ["--cgroup-manager", "cgroupfs"]
    if host.cgroups == "hybrid" and "runc" in host.runtimes:
        flags += ["--runtime", "runc"]
        say.once("note: crun refuses this machine's hybrid cgroups: podman runs with runc")
    return flags


def ulimit_flags(host: Host) -> list[str]:
    """Of `podman run`, which since podman 5 asks for 1048576 files, whatever the limit is."""
    if not host.root or host.may_raise_limits:
        return []
    files, processes = host.limits
    say.once("note: root lacks CAP_SYS_RESOURCE here: containers keep this shell's limits")
    return [f"--ulimit=nofile={files}:{files}", f"--ulimit=nproc={processes}:{processes}"]


def podman_run_flags(host: Host) -> list[str]:
    """Further flags of `podman run`."""
    flags = ulimit_flags(host)
    if host.root or host.mqueue:  # /dev/shm is 64 MB otherwise
        flags.append("--ipc=host")
    else:  # which a podman without root needs to share the host's IPC
        flags.append("--volume=/dev/shm:/dev/shm")
    if host.init:
        flags += ["--init", "--init-path", host.init]
    return flags


def _points(host: Host) -> tuple[Point, ...]:
    limited = host.root and not host.may_raise_limits
    return (
        Point("cgroups", host.cgroups != "hybrid" or "runc" in host.runtimes,
              f"{host.cgroups}; runtimes: {', '.join(host.runtimes) or 'none'}", "apt-get install runc"),
        Point("limits", True, "this shell's own (no CAP_SYS_RESOURCE)" if limited else "can be raised"),
        Point("/dev/fuse", host.fuse == "open", host.fuse,
              "chmod 666 /dev/fuse" if host.fuse == "closed" else "modprobe fuse"),
        Point("user namespaces", host.user_namespaces, "yes" if host.user_namespaces else "no",
              "sysctl -w user.max_user_namespaces=28000"),
        Point("subordinate ids", host.root or host.subids >= ENOUGH_IDS,
              "not needed by root" if host.root else f"{host.subids} for {host.user}",
              subids_hint(host.user)),
        Point("init for containers", host.init is not None, host.init or "none", "apt-get install catatonit"),
        Point("XDG_RUNTIME_DIR", host.root or host.runtime_dir != "stale", host.runtime_dir,
              "loginctl enable-linger"),
    )  # fmt: skip


def subids_hint(user: str) -> str:
    """The administrator's command that gives a user subordinate ids."""
    return f"sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}"


def _limit(kind: int, ceiling: Path) -> int:
    """The hard limit, but no more than the kernel has at all."""
    hard, most = resource.getrlimit(kind)[1], int(_text(ceiling) or "32768")
    return most if hard == resource.RLIM_INFINITY else min(hard, most)


def _cgroups(folder: Path) -> Literal["v2", "hybrid", "v1", "none"]:
    if (folder / "cgroup.controllers").exists():
        return "v2"
    if (folder / "unified/cgroup.controllers").exists():
        return "hybrid"
    return "v1" if (folder / "memory").exists() or (folder / "pids").exists() else "none"


def _fuse(device: Path) -> Literal["open", "closed", "missing"]:
    try:
        mode = device.stat().st_mode
    except OSError:
        return "missing"
    if not stat.S_ISCHR(mode):
        return "missing"
    return "open" if os.access(device, os.R_OK | os.W_OK) else "closed"


def _subids(table: Path, user: str, flag: str = "-u") -> int:
    """Of the file, or of the site's directory service, which only `getsubids` knows how to ask."""
    uid = str(os.geteuid())
    rows = [row.split(":") for row in _text(table).splitlines()]
    count = sum(int(row[2]) for row in rows if len(row) == 3 and row[0] in (user, uid) and row[2].isdigit())
    if count or not shutil.which("getsubids") or table.parts[:2] != ("/", "etc"):
        return count
    asked = process.run(["getsubids", *(["-g"] if flag == "-g" else []), user],
                        what="ask for subordinate ids", check=False, timeout=10)  # fmt: skip
    return sum(int(row.split()[-1]) for row in asked.out.splitlines() if row.split()[-1:][0].isdigit())


def _user_namespaces(sysctl: Path) -> bool:
    """Unknown switches count as open: most kernels have none of them."""
    most = _text(sysctl / "user/max_user_namespaces") or "1"
    debian = _text(sysctl / "kernel/unprivileged_userns_clone") or "1"
    ubuntu = _text(sysctl / "kernel/apparmor_restrict_unprivileged_userns") or "0"
    return int(most) > 0 and debian != "0" and ubuntu == "0"


def _runtime_dir(value: str | None) -> Literal["ok", "absent", "stale"]:
    if not value:
        return "absent"
    return "ok" if os.access(value, os.W_OK | os.X_OK) else "stale"


def _user() -> str:
    """By the password file where it can be; a job may run under a uid that has no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.geteuid())


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _fields(path: Path) -> dict[str, str]:
    return {name: value.strip() for name, _, value in
            (line.partition(":") for line in _text(path).splitlines())}  # fmt: skip


def install_hint(package: str) -> str:
    """The command that installs a distribution package on this host."""
    tool = "dnf" if shutil.which("dnf") and not shutil.which("apt-get") else "apt-get"
    return f"{'' if os.geteuid() == 0 else 'sudo '}{tool} install {package}"
