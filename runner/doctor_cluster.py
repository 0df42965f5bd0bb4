"""What this machine has against what a cluster's profile and its image need. Asks and reads only.

Slurm is asked once, for its partitions, and not for long; nothing is submitted.
"""

from __future__ import annotations

import getpass
import os
import shutil
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path

from definitions import archs, lines
from kit import process, settings
from kit.errors import HostError, MissingToolError, SlipworksError
from kit.nouns import Format
from runner import images
from runner.doctor import Finding, asked
from runner.planning import Wanted
from runner.site import Site
from slurm import clusters

PATIENCE = 10.0  # seconds for Slurm's clients, which wait a minute for a controller that is not there
ALONE = frozenset({"btrfs", "ext2", "ext3", "ext4", "overlay", "ramfs", "tmpfs", "xfs", "zfs"})
"""File systems of one machine: what is on them no other node sees."""
Partitions = Mapping[str, tuple[str, str]]
"""Name (a star marks the default) -> time limit and nodes, as sinfo writes them."""


def examine(site: Site, local: Sequence[Finding]) -> Iterator[Finding]:
    """All findings of a cluster with Slurm. `local` are those of this machine, which has asked the engines.

    `needed`: without it no job can be submitted from here.
    """
    yield Finding("cluster", True, f"{site.name}: {site.how}")
    partitions = yield from _slurm(site)
    yield _account(site)
    yield _partition(site, partitions)
    yield _engine(site, {each.name: each for each in local})
    yield from _folders(site)
    yield from _image(site)
    for field, why in site.cluster.unverified.items():
        yield Finding(f"unverified: {field}", False, why, hint=_say(site, field))


def _say(site: Site, field: str) -> str:
    return f"say {field} in [clusters.{site.name}] of {settings.user_file()}"


def _slurm(site: Site) -> Generator[Finding, None, Partitions | None]:
    """Whether Slurm's clients are here and their controller answers; returns what it has."""
    missing = [each for each in ("sbatch", "squeue", "scancel", "sinfo") if shutil.which(each) is None]
    if missing:
        login = site.cluster.login
        hint = f"ssh {login[0]}" if login else f"runner doctor, on a login node of {site.name}"
        yield Finding("Slurm's clients", False, f"not on PATH: {', '.join(missing)}", True, hint)
        return None
    told: list[str] = []

    def ask() -> str:
        version = process.run(["sinfo", "--version"], what="ask Slurm for its version", timeout=PATIENCE).out
        argv = ["sinfo", "--noheader", "--format=%P|%l|%D"]
        listed = process.run(argv, what="ask for the partitions", timeout=PATIENCE, error=HostError).out
        told.extend(line for line in listed.splitlines() if line.count("|") == 2)
        return f"{version.strip()}, {len(told)} partitions"

    answered = asked("Slurm's clients", ask, needed=True, hint="sinfo")
    yield answered
    return {name: (limit, nodes) for name, limit, nodes in map(_fields, told)} if answered.ok else None


def _fields(line: str) -> tuple[str, str, str]:
    name, limit, nodes = line.strip().split("|")
    return name, limit, nodes


def _account(site: Site) -> Finding:
    account = site.cluster.account
    if account:
        return Finding("account", True, f"{account} ({site.profile.sources['account']})")
    yours = _accounts() if shutil.which("sacctmgr") else ()
    told = f"none is set; Slurm knows you in {', '.join(yours)}" if yours else "none is set"
    hint = f'account = "{yours[0] if yours else "…"}" in [clusters.{site.name}] of {settings.user_file()}'
    needed = site.cluster.needs_account
    return Finding("account", not needed, told if needed else f"{told}; not demanded", needed, hint)


def _accounts() -> tuple[str, ...]:
    try:
        who = f"user={getpass.getuser()}"
        argv = ["sacctmgr", "--noheader", "--parsable2", "show", "associations", who, "format=account"]
        told = process.run(argv, what="ask for your accounts", timeout=PATIENCE, check=False)
    except (SlipworksError, KeyError, OSError):
        return ()
    return tuple(sorted(set(told.out.split()))) if told.code == 0 else ()


def _partition(site: Site, there: Partitions | None) -> Finding:
    """Slurm marks its default partition by a star."""
    wanted = site.cluster.partition
    if there is None:
        return Finding(
            "partition", False, f"{wanted or 'the default one'}: Slurm was not asked", hint="sinfo"
        )
    known = {name.removesuffix("*"): told for name, told in there.items()}
    default = next((name.removesuffix("*") for name in there if name.endswith("*")), None)
    name = wanted or default
    if name in known:
        limit, nodes = known[name]
        whose = "" if wanted else "Slurm's default, "
        return Finding("partition", True, f"{name}: {whose}{nodes} nodes, at most {limit}")
    listed = ", ".join(sorted(known)) or "none"
    found = (
        f"{wanted} is not there: Slurm has {listed}" if wanted else f"none is the default: Slurm has {listed}"
    )
    return Finding("partition", False, found, True, _say(site, "partition"))


def _engine(site: Site, local: Mapping[str, Finding]) -> Finding:
    """The first of the profile's that works here; a module brings it where the profile names one."""
    order = site.cluster.engines
    for name in order:
        if name in local and local[name].ok:
            return Finding("an engine of the cluster's", True, f"{name}: {local[name].found}")
    modules = site.cluster.modules
    if modules:
        found = f"{' or '.join(order)} is not here; jobs load {' '.join(modules)}, perhaps on nodes only"
        return Finding("an engine of the cluster's", False, found, hint=f"module load {' '.join(modules)}")
    return Finding("an engine of the cluster's", False, f"none of {', '.join(order)} works here",
                   hint=f"module avail {order[0]}; then {_say(site, 'modules')}")  # fmt: skip


def _folders(site: Site) -> Iterator[Finding]:
    for name in ("scratch", "cache", "runs"):

        def ask(name: str = name) -> str:
            value = clusters.folder(site.profile, name) or getattr(site.settings, name, None)
            if value is None:
                return f"none is said; {site.settings.cache}/scratch is taken"
            folder = settings.folder_of(name, value)
            there = next(each for each in (folder, *folder.parents) if each.exists())
            if not os.access(there, os.W_OK):
                raise HostError(f"{there} cannot be written to")
            if (kind := _kind(there)) in ALONE:
                raise HostError(f"{folder} is on {kind}, which other nodes do not see")
            return f"{folder} ({kind})"

        yield asked(f"shared {name}", ask, hint=_say(site, name))


def _kind(folder: Path) -> str:
    """The type of the file system that a folder is on, of the mount that is named last for it."""
    best, found = -1, "unknown"
    for line in Path("/proc/self/mounts").read_text(errors="replace").splitlines():
        point, kind = line.split(" ")[1:3]
        point = point.replace("\\040", " ")
        if folder.is_relative_to(point) and len(point) >= best:
            best, found = len(point), kind
    return found


def _image(site: Site) -> Iterator[Finding]:
    """Whether the image of the profile's arch is built, and whether the profile's driver runs it."""
    arch = site.cluster.arch
    if arch is None:
        yield Finding("image", True, "the profile names no arch: a job says which image")
        return
    kind: Format = "sif" if site.cluster.engines[0] == "apptainer" else "oci"
    line = f" LINE={site.cluster.line}" if site.cluster.line else ""
    hint = f"make {'sif' if kind == 'sif' else 'image'} ARCH={arch}{line}"

    def ask() -> str:
        recipe = images.planned(Wanted(arch=arch, line=site.cluster.line))
        image = images.store().find(recipe.key, kind)
        if image is None:
            raise MissingToolError(f"{recipe.name} is not built as {kind}", hint)
        return f"{image.name} ({kind})"

    yield asked("image", ask, hint=hint)
    if site.cluster.driver:
        yield asked("driver", lambda: _driver(site, arch), hint="nvidia-smi, on a node")


def _driver(site: Site, arch: str) -> str:
    """Dated: a node measures its own before the job starts."""
    driver = site.cluster.driver
    assert driver is not None
    known = archs.load(arch)
    major = int(driver.version.split(".")[0])
    told = f"{driver.version} (seen {driver.seen})"
    line = site.cluster.line or known.line
    floor = _floor(line, known.driver_floor)
    if major >= floor:
        return f"{told}; line {line} needs {floor} or newer"
    older = [
        each for each in lines.names() if lines.load(each).cuda and _floor(each, known.driver_floor) <= major
    ]
    raise HostError(
        f"{told} is older than {floor}, which line {line} needs",
        f"make image ARCH={arch} LINE={older[0]}"
        if older
        else f"ask {site.name} for driver {floor} or newer",
    )


def _floor(line: str, of_arch: str | None) -> int:
    return max(int(lines.load(line).driver_floor or 0), int(of_arch or 0))
