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
from typing import Any

from msgspec import Struct, json, to_builtins
from msgspec.structs import replace

from kit import process
from kit.errors import SlipworksError
from kit.share import cpus, memory
from runner import fabric, limits, python_packages
from runner.python_packages import Nccl

SKYRL = ("skyrl", "skyrl_train")
NETWORK = ("cxi*", "infiniband/*")  # Slingshot's, and what speaks verbs; below /dev
OUTSIDE = ("SLURM", "SBATCH_", "SRUN_", "SALLOC_", "PMI_", "PMIX_", "APPTAINER", "SINGULARITY", "SSH_")
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
    bus_ids     of the GPUs on the PCI bus, in the order of `gpus`.
    vllm        the version in the image's Python; None: no vLLM. vllm_uuids: it takes devices named by UUID.
    nccl        the NCCL that torch's wheel brings.
    skyrl       package of SkyRL -> version, of those that are in the image's Python.
    foreign     names in `env` that neither the image nor this kit has set, as far as can be told.
    limits      "memlock" and "nofile" -> the soft and the hard limit of this process; -1: none.
    fabric      names of the node's own network libraries, below fabric.FOLDER; fabric_wrong: what they need
                and the image has not, in words.
    devices     network devices below /dev that are there.
    alias       the address under which other nodes know this one by its name with the site's suffix.
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
    bus_ids: tuple[str, ...] = ()
    vllm: str | None = None
    vllm_uuids: bool = False
    nccl: Nccl | None = None
    skyrl: dict[str, str] = {}
    foreign: tuple[str, ...] = ()
    limits: dict[str, tuple[int, int]] = {}
    fabric: tuple[str, ...] = ()
    fabric_wrong: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    alias: str | None = None


def gather(
    rank: int,
    nodes: int,
    port_base: int | None,
    env: Mapping[str, str] = os.environ,
    step: Mapping[str, str] | None = None,
    suffix: str = "",
) -> Facts:
    """Looks at this node. Never fails: what cannot be found out is empty or None.

    `suffix` is the site's (Launch.node_suffix): the node's short name with it is looked up.
    """
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
        step=dict(step or {}),
        foreign=foreign(env),
        limits=limits.here(),
        fabric=fabric.names(),
        fabric_wrong=fabric.wrong(python_packages.folders(env), env),
        devices=tuple(sorted(str(path) for pattern in NETWORK for path in Path("/dev").glob(pattern))),
        alias=_alias(suffix),
        **_gpus(),
        **_packages(env),
    )


def _gpus() -> dict[str, Any]:
    listing = _nvidia("-L")
    driver, bus_ids = _asked("driver_version", "pci.bus_id") if listing else ((), ())
    return {"gpus": listing, "driver": driver[0] if driver else None, "bus_ids": bus_ids}


def _packages(env: Mapping[str, str]) -> dict[str, Any]:
    """What the image's Python has."""
    return {
        "ray": python_packages.version("ray", env),
        "ray_client": python_packages.version("grpcio", env) is not None,
        "vllm": python_packages.version("vllm", env),
        "vllm_uuids": python_packages.vllm_takes_uuids(env),
        "nccl": python_packages.nccl(env),
        "skyrl": {name: number for name in SKYRL if (number := python_packages.version(name, env))},
    }


def foreign(env: Mapping[str, str], root: Path = Path("/")) -> tuple[str, ...]:
    """Names in `env` that the image did not set: what the scheduler, the engine and the site have put there.

    Apptainer writes an image's variables to scripts inside, so there all others are known as well. Podman and
    docker write them nowhere; but into their containers nothing else comes, unless the site says so.
    """
    outside = {name for name in env if name.startswith(OUTSIDE)}
    scripts = sorted((root / ".singularity.d/env").glob("*.sh"))
    if scripts:
        text = "\n".join(script.read_text(errors="replace") for script in scripts)
        image = set(re.findall(r"\b([A-Za-z_]\w*)=", text)) | set(re.findall(r"\bexport\s+(\w+)", text))
        outside |= {name for name in env if name not in image and not name.startswith("SLIPWORKS_")}
    return tuple(sorted(outside))


def _alias(suffix: str) -> str | None:
    if not suffix:
        return None
    try:
        return socket.gethostbyname(platform.node().partition(".")[0] + suffix)
    except OSError:
        return None


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


def _asked(*questions: str) -> tuple[tuple[str, ...], ...]:
    """For each question the answers of all GPUs, in order; empty where nvidia-smi gives none."""
    lines = _nvidia(f"--query-gpu={','.join(questions)}", "--format=csv,noheader")
    rows = [tuple(field.strip() for field in line.split(",")) for line in lines]
    whole = [row for row in rows if len(row) == len(questions)]
    return tuple(zip(*whole, strict=True)) if whole else tuple(() for _ in questions)


def _nvidia(*words: str) -> tuple[str, ...]:
    """Lines that nvidia-smi prints; none where it is missing, fails, or hangs on a sick driver."""
    if not shutil.which("nvidia-smi"):
        return ()
    try:
        done = process.run(["nvidia-smi", *words], what="ask for the GPUs", timeout=20, check=False)
    except SlipworksError:
        return ()
    return tuple(done.out.splitlines()) if done.code == 0 else ()


def recorded(facts: Facts) -> bytes:
    """The facts as JSON; of environments the names alone, for values may be secrets."""
    hidden = replace(facts, env=dict.fromkeys(sorted(facts.env), ""), step=dict.fromkeys(facts.step, ""))
    return json.format(json.encode(_text(to_builtins(hidden))))


def _text(value: Any) -> Any:
    """What an operating system's text may hold and JSON may not, escaped: bytes that are no UTF-8."""
    if isinstance(value, dict):
        return {_text(key): _text(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_text(each) for each in value]
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
