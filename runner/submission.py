"""From a job to a run on this machine: the plan, the containers, the run folder, what is told at the end."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from msgspec import Struct, json, structs
from msgspec.structs import replace

from containers.engine import Bind, ContainerRun, Engine
from kit import files, say
from kit.errors import UnsupportedError
from runner import launch as launches
from runner import local, throughput
from runner.events import Events, merge
from runner.job import Job, Ray
from runner.launch import Launch, RayPlan
from runner.runs import INSIDE, RunFolder
from slurm.clusters import Cluster

RUNNER = "/slipworks/bin/runner"
SCRATCH = "/slipworks-scratch"
"""Where the machine's folder for caches is seen inside the job's containers."""


class Chosen(Struct, frozen=True, kw_only=True):
    """The container image of a run. `digest` and `key` are None for an image that is not ours."""

    reference: str
    engine: str
    arch: str | None = None
    name: str | None = None
    key: str | None = None
    digest: str | None = None


def launch(job: Job, cluster: Cluster, run_id: str) -> Launch:
    """The plan of a job on this machine, before any node's fixes. Pure."""
    if cluster.scheduler != "none":
        raise UnsupportedError(f"the scheduler {cluster.scheduler!r} is not supported yet", "--cluster local")
    if job.gpus and job.nodes > 1:
        raise UnsupportedError(
            f"{job.nodes} nodes with {job.gpus} GPUs each cannot share this machine", "nodes=1"
        )
    asked = job.ray if isinstance(job.ray, Ray) else Ray()
    ray = None if job.ray is False else RayPlan(**structs.asdict(asked))
    return Launch(
        run_id=run_id, name=job.name, command=job.command, nodes=job.nodes, nodes_here=job.nodes,
        workdir=job.workdir, env=job.env, ray=ray, interface=cluster.interface, scratch=SCRATCH,
        attended=True,
    )  # fmt: skip


def container(job: Job, folder: RunFolder, image: str, scratch: Path, rank: int) -> ContainerRun:
    """One node's container. Pure. The job's variables and secrets are not in it: the node reads them."""
    return ContainerRun(
        image=image,
        argv=(RUNNER, "node", "--run", INSIDE),
        env={"SLIPWORKS_RANK": str(rank)},
        binds=(
            Bind(folder.root, INSIDE),
            Bind(scratch, SCRATCH),
            *(Bind(Path(each.source), each.target, each.read_only) for each in job.mounts),
        ),
        name=_name(folder, rank),
        gpus=job.gpus > 0,
    )


def argvs(job: Job, folder: RunFolder, engine: Engine, image: str, scratch: Path) -> list[list[str]]:
    """The command that starts each node's container."""
    return [engine.run_argv(container(job, folder, image, scratch, rank)) for rank in range(job.nodes)]


def remove_argv(job: Job, folder: RunFolder, engine: Engine) -> list[str]:
    """The command that removes what may be left of this run's containers; empty where nothing can be."""
    return engine.remove_argv([_name(folder, rank) for rank in range(job.nodes)])


def _name(folder: RunFolder, rank: int) -> str:
    return f"slipworks-{folder.run_id}-{rank}"


def write(folder: RunFolder, job: Job, plan: Launch, chosen: Chosen, values: dict[str, str]) -> None:
    """Makes the run folder and all that a node needs in it."""
    folder.make()
    files.write(folder.job, json.format(json.encode(job)), mode=0o600)
    files.write(folder.image, json.format(json.encode(chosen)))
    launches.write(plan, folder.launch)
    if values:
        files.write(folder.secrets, json.encode(values), mode=0o600)
    if plan.ray:
        files.write(folder.token, secrets.token_hex(32), mode=0o600)


def run(
    folder: RunFolder,
    job: Job,
    plan: Launch,
    commands: Sequence[Sequence[str]],
    began: float,
    remove: Sequence[str] = (),
) -> int:
    """Runs the job whose folder was written, tells its story, and leaves result and events in the folder.

    Returns the command's exit code. The secrets and Ray's token are gone afterwards, however it ends.
    """
    attempt = folder.attempt(1)
    attempt.folder.mkdir()
    events = Events(attempt.events("launcher"), "launcher")
    events.mark("submitted", at=began)
    events.mark("image ready")
    result: dict[str, object] = {}
    try:
        with _shown(plan) as show:
            result["code"] = code = local.run(attempt, plan, commands, show, remove)
        if job.throughput and attempt.log(0).exists():
            with attempt.log(0).open(errors="replace") as lines:
                measured = throughput.measure(lines, job.throughput.trajectories)
            result["throughput"] = measured
            if measured.steps:
                throughput.show(measured)
    finally:
        folder.secrets.unlink(missing_ok=True)
        folder.token.unlink(missing_ok=True)
        merge(sorted(attempt.folder.glob("events-*.jsonl")), folder.events)
        files.write(folder.result, json.format(json.encode(result)))
    return code


@contextlib.contextmanager
def _shown(plan: Launch) -> Iterator[Callable[[str], None]]:
    """How a job's lines are told: on a terminal the bring-up is one live line, the command's lines follow."""
    import sys

    if not sys.stderr.isatty():
        yield say.say
        return
    with contextlib.ExitStack() as live:
        update = live.enter_context(say.step(f"bringing up {plan.nodes} node(s)"))
        running = False

        def show(line: str) -> None:
            nonlocal running
            if running:
                say.say(line)
            elif line == "node 0: running the command" or line.startswith("error: "):
                live.close()
                running = True
                if line.startswith("error: "):
                    say.say(line)
            else:
                update(line)

        yield show


def explained(job: Job, plan: Launch) -> list[str]:
    """Each fix that applies on this machine, with its reason: what a node that is like it will do."""
    from runner import facts, fixing, ports

    with ports.held(f"{plan.run_id}-0") as base:
        seen = facts.gather(0, plan.nodes, base)
    # Of the container only this much is known here: ours have Ray and a locale, and nothing of this shell.
    seen = replace(seen, env={"LANG": "C.UTF-8"} if job.arch else {}, ray="2.57.0" if plan.ray else None)
    if plan.ray:
        plan = replace(plan, ray=replace(plan.ray, token_file=f"{INSIDE}/ray.token"))
    return [f"fix {fix.name}: {fix.reason}" for fix in fixing.fixed(seen, plan)[1]]
