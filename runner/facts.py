"""What a node knows of itself, gathered once before anything is started there."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import socket
import struct
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from kit import process
from kit.errors import SlipworksError
from kit.share import cpus, memory

NETWORK_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "lustre", "gpfs", "beegfs", "cifs", "smb3", "9p", "fuse.sshfs", "ceph", "wekafs", "pvfs2"}
)


class Interface(Struct, frozen=True):
    """A network interface with an IPv4 address."""

    name: str
    address: str


class Folder(Struct, frozen=True):
    """A folder for temporary files. `local`: not on a network file system. `free` in bytes."""

    path: str
    local: bool
    free: int


class Facts(Struct, frozen=True, kw_only=True):
    """One node, as seen from inside its container.

    cpus        that this process may use: affinity and cgroup quota, at least 1.
    memory      bytes that it may use; shm_free: bytes free in /dev/shm.
    temporary   writable candidates, the preferred first.
    gpus        lines of `nvidia-smi -L`, in order; empty without GPUs.
    ray         the version in the image's Python; None: no Ray. ray_client: its client server can start.
    port_base   first of a block of free ports that this node holds (see ports.py).
    env         of the container, before the job's own.
    step        what the scheduler said to this step (SLURM_*, CUDA_VISIBLE_DEVICES, …); empty without one.
    """

    rank: int
    nodes: int
    hostname: str
    cpus: int
    memory: int
    shm_free: int
    interfaces: tuple[Interface, ...]
    temporary: tuple[Folder, ...]
    env: dict[str, str]
    port_base: int | None = None
    gpus: tuple[str, ...] = ()
    driver: str | None = None
    ray: str | None = None
    ray_client: bool = False
    step: dict[str, str] = {}


def gather(
    rank: int,
    nodes: int,
    port_base: int | None,
    env: Mapping[str, str] = os.environ,
    step: Mapping[str, str] | None = None,
) -> Facts:
    """Looks at this node. Never fails: what cannot be found out is empty or None."""
    listing = _nvidia("-L")
    driver = _nvidia("--query-gpu=driver_version", "--format=csv,noheader") if listing else ()
    return Facts(
        rank=rank,
        nodes=nodes,
        hostname=platform.node(),
        cpus=cpus(),
        memory=memory(),
        shm_free=_free("/dev/shm"),
        interfaces=interfaces(),
        temporary=temporary(env),
        env=dict(env),
        port_base=port_base,
        gpus=listing,
        driver=driver[0].strip() if driver else None,
        ray=package_version("ray", env),
        ray_client=package_version("grpcio", env) is not None,
        step=dict(step or {}),
    )


def interfaces() -> tuple[Interface, ...]:
    """All interfaces that have an IPv4 address, in the kernel's order."""
    import fcntl

    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode()[:15])
            with contextlib.suppress(OSError):
                answer = fcntl.ioctl(probe.fileno(), 0x8915, request)  # SIOCGIFADDR
                found.append(Interface(name, socket.inet_ntoa(answer[20:24])))
    return tuple(found)


def temporary(env: Mapping[str, str], mounts: Path = Path("/proc/self/mounts")) -> tuple[Folder, ...]:
    """Writable folders for temporary files: $TMPDIR, /tmp, /var/tmp, /dev/shm; local ones first."""
    types = _mounted(mounts)
    found = []
    for path in dict.fromkeys(filter(None, (env.get("TMPDIR"), "/tmp", "/var/tmp", "/dev/shm"))):
        if Path(path).is_dir() and os.access(path, os.W_OK):
            found.append(Folder(path, _type(path, types) not in NETWORK_FILE_SYSTEMS, _free(path)))
    return tuple(sorted(found, key=lambda folder: not folder.local))


def _mounted(mounts: Path) -> dict[str, str]:
    types = {}
    with contextlib.suppress(OSError):
        for line in mounts.read_text(errors="replace").splitlines():
            _, point, kind, *_ = line.split(" ")
            types[re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), point)] = kind
    return types


def _type(path: str, types: Mapping[str, str]) -> str:
    real = Path(path).resolve()
    for folder in (real, *real.parents):
        if str(folder) in types:
            return types[str(folder)]
    return ""


def _free(path: str) -> int:
    try:
        room = os.statvfs(path)
    except OSError:
        return 0
    return room.f_bavail * room.f_frsize


def _nvidia(*words: str) -> tuple[str, ...]:
    """Lines that nvidia-smi prints; none where it is missing, fails, or hangs on a sick driver."""
    if not shutil.which("nvidia-smi"):
        return ()
    try:
        done = process.run(["nvidia-smi", *words], what="ask for the GPUs", timeout=20, check=False)
    except SlipworksError:
        return ()
    return tuple(done.out.splitlines()) if done.code == 0 else ()


def package_version(name: str, env: Mapping[str, str] = os.environ) -> str | None:
    """The version of a package in the Python that PATH finds first, without starting it. None: not there."""
    python = shutil.which("python", path=env.get("PATH")) or shutil.which("python3", path=env.get("PATH"))
    if not python:
        return None
    for site in sorted(Path(python).parent.parent.glob("lib/python3*/site-packages")):
        for info in site.glob(f"{name}-*.dist-info"):
            return info.name[len(name) + 1 : -len(".dist-info")]
    return None
