"""A shell in an image, on a login node: with the user's files, and with what it takes to reach Slurm."""

from __future__ import annotations

import os
import pwd
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from containers.engine import Bind, ContainerRun, Engine
from kit import files, say
from kit.errors import NotFoundError, SlipworksError
from runner import chosen, images, planning, submission
from runner.chosen import Chosen
from runner.job import Job
from runner.site import Site
from slurm import client, host_client

# bash, or sh in an image without it; the runner of the image, or the one that is mounted, is found by name.
SHELL = (
    "/bin/sh",
    "-c",
    'PATH="$PATH:/slipworks/bin"; export PATH; command -v bash >/dev/null && exec bash; exec sh',
)
WORDS = ("/bin/sh", "-c", 'PATH="$PATH:/slipworks/bin"; export PATH; exec "$@"', "sh")
_PASSED = (
    "TERM",
    "LANG",
    "LC_ALL",
    "TZ",
    "USER",
    "LOGNAME",
    "XDG_CONFIG_HOME",
    "XDG_CACHE_HOME",
    "XDG_STATE_HOME",
)


class Wanted(Struct, frozen=True, kw_only=True):
    """arch with line and base, or an image; neither: the arch of the cluster's profile."""

    arch: str | None = None
    line: str | None = None
    base: str | None = None
    image: str | None = None


def engine(here: Site) -> Engine:
    """The one that was asked for; else the first of the cluster's that works on this machine, else any."""
    if here.settings.engine:
        return images.runs(here.settings.engine)
    for name in here.cluster.engines:
        try:
            return images.runs(name)
        except SlipworksError:
            continue
    return images.runs(None)


def image(wanted: Wanted, here: Site, able: Engine, *, dry: bool) -> Chosen:
    """The image for an engine of this machine: found, or made. dry: nothing is made, its name is told."""
    job = Job(
        name="shell", run="sh", arch=wanted.arch, line=wanted.line, base=wanted.base, image=wanted.image
    )
    if job.image is not None:
        if dry:
            return chosen.of(job, here.cluster, able.name, dry=True).chosen
        return chosen.here(job, here.cluster, able)
    arch = chosen.arch_of(job, here.cluster)
    if dry:
        recipe = images.planned(planning.Wanted(arch=arch, line=job.line, base=job.base))
        return Chosen(reference=images.reference_of(recipe, able), engine=able.name)
    made = images.make(arch, line=job.line, base=job.base, engine=able.name, to_run=True)
    return Chosen(reference=made.reference, engine=able.name)


def slurm(environment: Mapping[str, str]) -> host_client.HostFacts | None:
    """This machine's client of Slurm, or None, which is told."""
    found = shutil.which("sbatch", path=environment.get("PATH", os.defpath))
    if found is None:
        if Path(client.HOST).is_dir():
            raise NotFoundError("this is such a shell already", "runner submit …")
        say.say(
            "note: sbatch is not on PATH here: inside, no job can be submitted but by ssh to a login node"
        )
        return None
    try:
        facts = host_client.facts(str(Path(found).resolve().parent), environment)
    except SlipworksError as lack:
        say.say(f"note: Slurm's client cannot be taken along: {lack.message}")
        return None
    for missing in host_client.missing(facts, environment, Path("/")):
        say.say(f"note: Slurm's client lacks here: {missing}")
    return facts


def users(here: Site) -> Path | None:
    """A list of users for inside, with this one: None where /etc/passwd has it already.

    Where names come from a directory service, the container could not ask it, and ssh stops without a name.
    """
    try:
        own = pwd.getpwuid(os.getuid())
        known = Path("/etc/passwd").read_text(errors="surrogateescape")
    except (KeyError, OSError):
        return None
    if f"\n{own.pw_name}:" in f"\n{known}":
        return None
    path = here.settings.cache_folder / f"passwd-{own.pw_uid}"
    line = ":".join([own.pw_name, "x", str(own.pw_uid), str(own.pw_gid), "", own.pw_dir, "/bin/sh"])
    files.write(path, f"{known.rstrip()}\n{line}\n".encode(errors="surrogateescape"))
    return path


def _source(path: Path, users: Path | None) -> Path:
    return users if users and str(path) == "/etc/passwd" else path


def container(
    image: Chosen,
    here: Site,
    facts: host_client.HostFacts | None,
    environment: Mapping[str, str],
    words: Sequence[str] = (),
    *,
    users: Path | None = None,
    gpus: bool = False,
    terminal: bool = True,
) -> ContainerRun:
    """The shell's container. The user's home, this folder and those of the settings are at their own paths,
    so that a job file, its code and its run folder mean the same inside as outside. users: see `users`."""
    env = {name: environment[name] for name in _PASSED if name in environment}
    env |= {name: value for name, value in environment.items() if name.startswith("SLIPWORKS_")}
    # What the user installed for the host's Python must not come before the image's own packages.
    env |= {"HOME": str(Path.home()), "PYTHONNOUSERSITE": "1"}
    binds: list[Bind] = []
    if facts:
        env |= host_client.variables(facts) | {"SLIPWORKS_CLUSTER": here.name}
        pairs = host_client.needed(facts, client.HOST)
        binds = [Bind(_source(Path(at), users), target, True) for at, target in pairs if Path(at).exists()]
    folders = [Path.home(), Path.cwd(), *_folders(here)]
    return ContainerRun(
        image=image.reference,
        argv=(*WORDS, *words) if words else SHELL,
        env=env,
        binds=(*_outermost(folders, binds), *binds, *submission.layer_binds(image)),
        workdir=str(Path.cwd()),
        gpus=gpus,
        stdin=True,
        terminal=terminal,
    )


def _folders(here: Site) -> Iterable[Path]:
    """Where runs, images and scratch files are; those that are there."""
    named = [here.settings.runs, str(here.settings.cache_folder), here.scratch]
    found = (Path(each).expanduser() for each in named if each)
    return [each for each in found if each.is_dir()]


def _outermost(folders: Iterable[Path], others: Sequence[Bind]) -> list[Bind]:
    """Each folder once, and none that lies in another. / and what is bound for Slurm are left alone."""
    taken = {bind.target for bind in others} | {"/"}
    wanted = dict.fromkeys(each.resolve() for each in folders)
    return [
        Bind(each, str(each)) for each in wanted
        if str(each) not in taken and not any(each != other and each.is_relative_to(other) for other in wanted
                                              if str(other) not in taken)
    ]  # fmt: skip
