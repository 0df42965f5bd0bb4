"""From a job to a run on this machine: the plan, the containers, the run folder, what is told at the end."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from msgspec import Struct, json, structs

from containers.engine import Bind, ContainerRun, Engine
from kit import exact, files, say
from kit.errors import UnsupportedError
from runner import code, env_files, ray_hook, training
from runner import launch as launches
from runner.beside import checks as beside
from runner.chosen import Chosen
from runner.code_server import in_job as code_server
from runner.egress import submitting as egress
from runner.egress.plan import EgressPlan
from runner.job import Job
from runner.launch import Launch, RayPlan
from runner.runs import CHECKPOINTS, INSIDE, RunFolder
from runner.sandboxes import in_job as sandboxes
from runner.staging import staged
from slurm.clusters import Cluster

LAYER = "/slipworks"
RUNNER = f"{LAYER}/bin/runner"
SCRATCH = "/slipworks-scratch"
"""Where the folder for caches that outlive jobs is seen inside the job's containers."""


class Places(Struct, frozen=True, kw_only=True):
    """The folders of a run, which all its nodes see. scratch: for caches; checkpoints: None where the job
    wants none."""

    run: RunFolder
    scratch: Path
    checkpoints: Path | None = None

    def make(self) -> None:
        """Those beside the run folder, the checkpoints' for their owner alone."""
        self.scratch.mkdir(parents=True, exist_ok=True)
        if self.checkpoints:
            self.checkpoints.mkdir(mode=0o700, parents=True, exist_ok=True)

    def link(self) -> None:
        """Leaves a link to the checkpoints in the run folder, once that is there."""
        if self.checkpoints:
            (self.run.root / CHECKPOINTS).symlink_to(self.checkpoints)


def places(job: Job, folder: RunFolder, cache: Path, scratch: str | None) -> Places:
    """Where a run's folders are. `scratch` is the cluster's, for what is large; else the user's own folders:
    the cache, and beside the runs. Pure."""
    own = Path(scratch) / "slipworks" if scratch else None
    saved = job.saved
    above = (own or folder.root.parent.parent) / "checkpoints"
    name = f"shared-{saved.shared}" if saved and saved.shared else folder.root.name
    return Places(
        run=folder,
        scratch=(own or cache) / "job-caches",
        checkpoints=above / name if saved else None,
    )


def launch(job: Job, cluster: Cluster, run_id: str, chosen: Chosen | None = None) -> Launch:
    """The plan of a job on a cluster, before any node's fixes. Pure but for what it reads of `training`."""
    here = cluster.scheduler == "none"
    if here and job.gpus and job.nodes > 1:
        raise UnsupportedError(
            f"{job.nodes} nodes with {job.gpus} GPUs each cannot share this machine", "nodes=1"
        )
    asked = job.asked_of_ray
    return Launch(
        run_id=run_id, name=job.name, command=job.command, nodes=job.nodes,
        nodes_here=job.nodes if here else 1, workdir=job.workdir,
        env={
            **cluster.environment, **training.variables(job), **code_server.variables(job),
            **beside.variables(job), **job.env,
        },
        ray=RayPlan(**structs.asdict(asked)) if asked else None, interface=cluster.interface,
        scratch=SCRATCH, attended=here, everywhere=asked is None and job.nodes > 1,
        services=code_server.services(job, job.nodes if here else 1), artifacts=job.kept,
        checkpoints=job.saved.target if job.saved else None,
        code=code.inside(job.checkouts), node_suffix=cluster.node_suffix, ray_cpus=cluster.ray_cpus,
        interfaces={str(purpose): name for purpose, name in cluster.interfaces.items()},
        fabric=cluster.fabric, driver_floor=chosen.driver_floor if chosen else None, gpus=job.gpus or None,
        keep=job.keep_env, restarts=job.restarts, secrets=(*job.secrets, *code_server.secrets(job)),
        checkpoints_shared=bool(job.saved and job.saved.shared), internet=cluster.internet,
        egress=egress.planned(job, cluster), netrc=code_server.netrc(job),
        datasets_key=training.tokenized_for(job),
        env_files=env_files.inside(job), sandboxes=sandboxes.awaited(job),
    )  # fmt: skip


def container(
    job: Job,
    folder: RunFolder,
    image: str,
    scratch: Path,
    rank: int | str,
    more: tuple[Bind, ...] = (),
    elsewhere: bool = False,
) -> ContainerRun:
    """One node's container. Pure. The job's variables and secrets are not in it: the node reads them.

    rank  a text that stands for it where the script of the node knows it.
    """
    return ContainerRun(
        image=image,
        argv=(RUNNER, "node", "--run", INSIDE),
        env={} if elsewhere else {"SLIPWORKS_RANK": str(rank)},
        binds=(
            Bind(folder.root, INSIDE),
            Bind(scratch, SCRATCH),
            *(Bind(Path(each.source), each.target, each.read_only) for each in job.mounts),
            *more,
        ),
        name=_name(folder, rank),
        gpus=job.gpus > 0,
        elsewhere=elsewhere,
        temporary=elsewhere and not any(each.target == "/tmp" for each in job.mounts),
    )


def further(job: Job, at: Places, chosen: Chosen, out: EgressPlan | None = None) -> tuple[Bind, ...]:
    """What is mounted beside what every container has: checkpoints, files with variables, what the way `out`
    needs, and the layer that an image lacks."""
    binds = []
    if at.checkpoints and job.saved:
        binds.append(Bind(at.checkpoints, job.saved.target))
    return (*binds, *env_files.binds(job), *egress.binds(out), *layer_binds(chosen))


def layer_binds(chosen: Chosen) -> tuple[Bind, ...]:
    """The slipworks layer, for an image without one."""
    if not chosen.layer:
        return ()
    layer = Path(chosen.layer)
    return (Bind(layer, LAYER, read_only=True, image=layer.suffix == ".sqfs"),)


def argvs(
    job: Job, folder: RunFolder, engine: Engine, image: str, scratch: Path, more: tuple[Bind, ...] = ()
) -> list[list[str]]:
    """The command that starts each node's container on this machine."""
    return [engine.run_argv(container(job, folder, image, scratch, rank, more)) for rank in range(job.nodes)]


def remove_argv(job: Job, folder: RunFolder, engine: Engine) -> list[str]:
    """The command that removes what may be left of this run's containers; empty where nothing can be."""
    return engine.remove_argv([_name(folder, rank) for rank in range(job.nodes)])


def _name(folder: RunFolder, rank: int | str) -> str:
    return f"slipworks-{folder.run_id}-{rank}"


def write(
    folder: RunFolder, job: Job, plan: Launch, chosen: Chosen, values: dict[str, str],
    listed: Sequence[code.Listed] = (),
) -> None:  # fmt: skip
    """Makes the run folder and all that a node needs in it."""
    folder.make()
    fill(folder, job, plan, chosen, listed)
    write_private(folder, plan, values)


def fill(
    folder: RunFolder, job: Job, plan: Launch, chosen: Chosen, listed: Sequence[code.Listed] = ()
) -> None:
    """Puts into the run folder what a node needs but for the secrets; the job's code as it is now, too."""
    files.write(folder.job, exact.encode(job), mode=0o600)
    files.write(folder.image, exact.encode(chosen))
    for number, each in enumerate(listed):
        taken = code.take(each, folder.code, number)
        say.say(f"code/{number}: {taken.told}")
    training.carry(job, folder)
    if told := code_server.why(job):
        say.say(f"note: {told}")
    if plan.ray:
        folder.hook.parent.mkdir()
        files.write(folder.hook, Path(ray_hook.__file__).read_text())
    staged.link(plan.staged, folder.staged)
    if asked := beside.of(job):
        files.write(folder.prepull, "".join(f"{image}\n" for image in asked.prepull))
    launches.write(plan, folder.launch)


def write_private(folder: RunFolder, plan: Launch, values: dict[str, str]) -> None:
    """The secrets, with those that are made here, and a token for Ray: what RunFolder.forget removes."""
    values = {**values, **code_server.made(plan.secrets)}
    if values:
        files.write(folder.secrets, exact.encode(values), mode=0o600)
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
    from runner import local, throughput
    from runner.events import Events, merge

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
        folder.forget()
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
