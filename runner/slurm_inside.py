"""What a container gets so that jobs can be submitted from it: the user's folders and settings, and Slurm's
client of the host. For shells on this machine, and for jobs with `submits` on nodes that are like it.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from containers.engine import Bind
from kit import files, say, settings
from kit.errors import InvalidFileError, MissingToolError, SlipworksError
from runner.job import Job
from runner.launch import Launch
from runner.site import Site
from runner.submission import LAYER
from slurm import client as clients
from slurm import clusters, host_client
from slurm.host_client import HostFacts
from slurm.script import Present

BIN = f"{LAYER}/bin"
"""The folder with the runner of the image, or the one that is mounted."""
HOST_PROGRAMS = "SLIPWORKS_HOST_PROGRAMS"
"""The variable that tells, inside, in which folder the host has sbatch: there it is elsewhere."""
_PASSED = ("USER", "LOGNAME", "XDG_CONFIG_HOME")


class Outfit(Struct, frozen=True):
    """What a job's containers get to submit others."""

    env: dict[str, str]
    present: tuple[Present, ...]

    def worn(self, plan: Launch) -> Launch:
        """The plan with it. What the job says of a variable wins; where slurm.conf lies, the node says."""
        env = {name: value for name, value in self.env.items() if name != "SLURM_CONF"}
        return replace(plan, env={**env, **plan.env}, path=(*plan.path, BIN), keep=(*plan.keep, "SLURM_CONF"))


def client(environment: Mapping[str, str], host: Path = Path(clients.HOST)) -> HostFacts:
    """The client of this machine or, in a container that has one, its host's; MissingToolError where neither
    can be taken along."""
    if host.is_dir():
        if not (programs := environment.get(HOST_PROGRAMS)):
            raise MissingToolError(f"{HOST_PROGRAMS} is not set, so where the host has sbatch is not known")
        found = host_client.facts(host_client.PROGRAMS, environment, host)
        return replace(found, programs=programs)
    sbatch = shutil.which("sbatch", path=environment.get("PATH", os.defpath))
    if sbatch is None:
        raise MissingToolError("sbatch is not on PATH here")
    return host_client.facts(str(Path(sbatch).resolve().parent), environment)


def outfit(job: Job, here: Site, environment: Mapping[str, str] = os.environ, *, dry: bool) -> Outfit | None:
    """For a job; None for one that submits nothing. MissingToolError where a node could not reach Slurm."""
    if not job.submits:
        return None
    facts = None
    try:
        facts = client(environment)
    except SlipworksError as lack:
        told = f"Slurm's client cannot be taken along: {lack.message}"
        if not dry and not here.cluster.login:
            raise MissingToolError(
                f"the job is to submit others, and {told}",
                f'runner submit on a login node; or login = ["HOST"] below [clusters.{here.name}] of '
                f"{settings.user_file(environment)}",
            ) from lack
        say.say(f"note: {told}: in the job, others are submitted by ssh to a login node")
    wanted = [*_settled(here), *([cwd] if len((cwd := Path.cwd()).parts) > 2 else [])]
    client_ = client_binds(facts, None if dry else users(here)) if facts else []
    taken = {each.target for each in job.mounts}
    binds = [*outermost(wanted, client_), *client_]
    return Outfit(
        variables(here, facts, environment),
        tuple(Present(str(each.source), each.target, each.read_only) for each in binds
              if each.target not in taken),
    )  # fmt: skip


def variables(here: Site, facts: HostFacts | None, environment: Mapping[str, str]) -> dict[str, str]:
    """The settings that hold here, for a runner inside, and what it needs to find the rest."""
    names = (*_PASSED, *clusters.variables(here.cluster))
    env = {name: environment[name] for name in names if name in environment}
    env |= {
        name: value for name, value in environment.items()
        if name.startswith("SLIPWORKS_") and name not in settings.RESERVED
    }  # fmt: skip
    # What the user installed for the host's Python must not come before the image's own packages.
    env |= {"HOME": str(Path.home()), "PYTHONNOUSERSITE": "1"}
    env |= {"SLIPWORKS_CLUSTER": here.name, "SLIPWORKS_CACHE": str(here.settings.cache_folder)}
    env |= {"SLIPWORKS_RUNS": str(Path(here.settings.runs).expanduser().absolute())}
    if facts:
        env |= host_client.variables(facts) | {HOST_PROGRAMS: facts.programs}
    return env


def client_binds(facts: HostFacts, users: Path | None) -> list[Bind]:
    """Where the host has them. users: see `users`."""
    return [
        Bind(users if users and at == "/etc/passwd" else Path(at), target, True)
        for at, target in host_client.needed(facts, clients.HOST)
    ]


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


def folders(here: Site) -> list[Path]:
    """The user's: home, this one, and those of the settings; those that are there. At their own paths inside,
    a job file, its code and its run folder mean the same there."""
    return [each for each in (*_settled(here), Path.cwd()) if each.is_dir()]


def _settled(here: Site) -> Iterable[Path]:
    """Home, and where settings, runs, images and scratch files are. They need not be there yet."""
    named = [here.settings.runs, str(here.settings.cache_folder)]
    with contextlib.suppress(InvalidFileError):  # a dry run goes on without it, and has said so
        named += [here.scratch or ""]
    own = [Path(each).expanduser().absolute() for each in named if each]
    return [Path.home(), settings.user_file().parent, *own]


def outermost(folders: Iterable[Path], others: Sequence[Bind]) -> list[Bind]:
    """Each folder once, by the name that it goes by and by that without links, and none that lies in another.
    / and what is bound for Slurm are left alone."""
    taken = {bind.target for bind in others} | {"/"}
    wanted = dict.fromkeys(path for each in folders for path in (each, each.resolve()))
    return [
        Bind(each, str(each)) for each in wanted
        if str(each) not in taken and not any(each != other and each.is_relative_to(other) for other in wanted
                                              if str(other) not in taken)
    ]  # fmt: skip
