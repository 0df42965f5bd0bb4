"""A shell in an image, on a login node: with the user's files, and with what it takes to reach Slurm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from containers.engine import ContainerRun, Engine
from kit import say
from kit.errors import NotFoundError, SlipworksError
from runner import chosen, images, planning, slurm_inside, submission
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
_PASSED = ("TERM", "LANG", "LC_ALL", "TZ", "XDG_CACHE_HOME", "XDG_STATE_HOME")


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
    if Path(client.HOST).is_dir():
        raise NotFoundError("this is such a shell already", "runner submit …")
    try:
        facts = slurm_inside.client(environment)
    except SlipworksError as lack:
        say.say(f"note: Slurm's client cannot be taken along: {lack.message}")
        say.say("note: inside, jobs can be submitted by ssh to a login node alone")
        return None
    for missing in host_client.missing(facts, environment, Path("/")):
        say.say(f"note: Slurm's client lacks here: {missing}")
    return facts


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
    as in slurm_inside. users: see there."""
    env = {name: environment[name] for name in _PASSED if name in environment}
    own = slurm_inside.variables(here, facts, environment)
    # These are words of a command that anybody sees; an index may be named with a password.
    env |= {name: value for name, value in own.items() if name != "SLIPWORKS_TORCH_INDEX" or "@" not in value}
    wanted = slurm_inside.client_binds(facts, users) if facts else []
    binds = [each for each in wanted if each.source.exists()]
    return ContainerRun(
        image=image.reference,
        argv=(*WORDS, *words) if words else SHELL,
        env=env,
        binds=(
            *slurm_inside.outermost(slurm_inside.folders(here), binds),
            *binds,
            *submission.layer_binds(image),
        ),
        workdir=str(Path.cwd()),
        gpus=gpus,
        stdin=True,
        terminal=terminal,
    )
