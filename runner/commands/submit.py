"""Run a job: on this machine until it has ended, or as jobs of Slurm, which are in its hands at once.

The answer on stdout is the run folder, which holds all that is known of the run. On this machine the job's
log goes to stderr as it grows, and the exit code is the command's.

Keys of a job, in its file or as key=value: name, run, arch or image, nodes, gpus (of a node), time, env,
secrets, code, binds, checkpoints, restarts, services, artifacts, sbatch. All of them: docs/reference/job.md
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from containers.engine import Engine
    from runner.chosen import Chosen
    from runner.job import Job
    from runner.queueing import Prepared
    from runner.runs import RunFolder
    from runner.site import Site
    from runner.submission import Places
    from runner.submitted import Record

HELP = "run a job file on a cluster, or on this machine"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("job", type=Path, help="the job file, as examples/hello-grpo/job.yaml")
    parser.add_argument(
        "override", nargs="*", metavar="key=value", help="over the job file's: nodes=1 env.A=b"
    )
    parser.add_argument("--cluster", help="see runner clusters (default: the setting, else the one here)")
    parser.add_argument(
        "--engine",
        help="docker, podman or apptainer (default: the cluster's first; here, the first that works)",
    )
    parser.add_argument(
        "--follow", action="store_true",
        help="stay until the run has ended, with its log; sync W&B's offline runs; its exit code",
    )  # fmt: skip
    parser.add_argument(
        "--dry-run", action="store_true", help="print the batch script, or the commands, and run nothing"
    )
    parser.add_argument(
        "--explain", action="store_true", help="print the fixes that may apply, with their reasons, and stop"
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="the answer as JSON: run folder and job ids; of a dry run the script",
    )


def run(args: argparse.Namespace) -> int:
    import time

    from kit.errors import UsageError
    from runner import job as jobs
    from runner import runs, site

    if args.explain and args.json:
        raise UsageError("--explain has no form in JSON", "runner submit JOB --explain")
    began = time.time()
    job = jobs.load(args.job, args.override)
    looked_at = args.dry_run or args.explain  # on any machine, which need not have the cluster's folders
    here = site.chosen({"cluster": args.cluster, "engine": args.engine}, lenient=looked_at)
    if job.run is None:
        job = jobs.load(args.job, args.override, here.cluster)
    folder = runs.named(Path(here.settings.runs).expanduser().absolute(), job.name)
    if args.explain:
        _explain(job, here, folder)
        if not args.dry_run:
            return 0
    if here.cluster.scheduler == "none":
        return _here(args, job, here, folder, began)
    return _queued(args, job, here, folder)


def _explain(job: Job, here: Site, folder: RunFolder) -> None:
    from kit import say, shell
    from runner import batching, explaining, submission

    plan = submission.launch(job, here.cluster, folder.run_id)
    for line in explaining.explained(plan, here.cluster, job.image is None):
        say.answer(line)
    if job.skyrl:
        say.answer(f"command: {shell.line(job.command)}")
    if here.cluster.scheduler == "slurm":
        for line in batching.asked(job, here.cluster, folder).replaced:
            say.answer(line)


def _queued(args: argparse.Namespace, job: Job, here: Site, folder: RunFolder) -> int:
    from kit import say
    from runner import queued, queueing

    if args.dry_run:
        from slurm import script

        (ready,) = queued.prepared([(job, folder)], here, dry=True)
        _dry_answer("script", script.render(ready.run.batch).rstrip("\n"), args.json)
        return 0

    def tell(run: Prepared, record: Record) -> None:
        first, *more = record.ids
        chain = f", then {' '.join(more)} if it fails" if more else ""
        say.say(f"submitted to {here.name}: job {first}{chain}")
        _answer(folder, record.ids, args.json)

    slurm = queueing.queue(here)
    queued.submit(queued.prepared([(job, folder)], here, dry=False), slurm, tell)
    if args.follow:
        from runner import followed

        return followed.follow(folder)
    return 0


def _here(args: argparse.Namespace, job: Job, here: Site, folder: RunFolder, began: float) -> int:
    from kit import say, settings
    from kit.errors import UnsupportedError
    from runner import code, submission
    from runner import job as jobs
    from runner.egress import submitting as egress
    from runner.staging import submitting as staging

    at = submission.places(job, folder, here.settings.cache_folder, here.scratch)
    if job.submits:
        say.say("note: there is no Slurm here, so the job's `submits` gives it nothing")
    if job.podman:
        raise UnsupportedError("there is no Slurm here, and only its nodes give a job podman", "--cluster …")
    if job.sandboxes:
        raise UnsupportedError(
            "there is no Slurm here, and only its nodes give a job sandboxes",
            "--cluster …; or runner sandbox serve, and env_files of the job",
        )
    if job.after:
        say.say("note: there is no Slurm here, so nothing comes after the run: no upload")
    if args.dry_run:
        return _dry(job, at, here, args.json)
    settings.writable("runs")
    settings.writable("cache")
    secrets = jobs.secret_values(job)
    listed = [code.listed(each) for each in job.checkouts]
    engine, image = _image(job, here)
    plan = submission.launch(job, here.cluster, folder.run_id, image)
    egress.demand(job, here.cluster, here.name, plan.egress)
    plan = staging.brought(job, plan, at.scratch)
    at.make()
    submission.write(folder, job, plan, image, secrets, listed)
    at.link()
    more = submission.further(job, at, image, plan.egress)
    commands = submission.argvs(job, folder, engine, image.reference, at.scratch, more)
    remove = submission.remove_argv(job, folder, engine)
    try:
        return submission.run(folder, job, plan, commands, began, remove)
    finally:
        _answer(folder, (), args.json)
        if args.follow:
            from runner import followed, watching

            followed.bring(folder, watching.Watch())


def _dry(job: Job, at: Places, here: Site, as_json: bool) -> int:
    """Prints each node's command; an image that was not built yet goes by the name that it will have."""
    from kit import shell
    from runner import chosen, images, planning, submission
    from runner.staging import submitting as staging

    able = images.runs(here.settings.engine)
    if job.image is not None:
        image = chosen.of(job, here.cluster, able.name, dry=True).chosen
    else:
        wanted = planning.Wanted(arch=chosen.arch_of(job, here.cluster), line=job.line, base=job.base)
        reference = images.reference_of(images.planned(wanted), able)
        image = chosen.Chosen(reference=reference, engine=able.name)
    plan = submission.launch(job, here.cluster, at.run.run_id, image)
    staging.announce(job, plan, at.scratch)
    more = submission.further(job, at, image, plan.egress)
    argvs = submission.argvs(job, at.run, able, image.reference, at.scratch, more)
    _dry_answer("commands", "\n".join(map(shell.line, argvs)), as_json)
    return 0


def _dry_answer(what: str, text: str, as_json: bool) -> None:
    from msgspec import json

    from kit import say

    say.answer(json.encode({what: text}).decode() if as_json else text)


def _image(job: Job, here: Site) -> tuple[Engine, Chosen]:
    """The job's image, made or found, and the engine that has it."""
    from runner import chosen, images

    engine = here.settings.engine or ("apptainer" if job.is_sif else None)
    able = images.runs(engine)
    if job.image is not None:
        return able, chosen.here(job, here.cluster, able)
    arch = chosen.arch_of(job, here.cluster)
    made = images.make(arch, line=job.line, base=job.base, engine=able.name, to_run=True)
    image, recipe = made.image, made.recipe
    return able, chosen.Chosen(
        reference=made.reference, engine=able.name, arch=arch, name=image.name, key=image.key,
        digest=image.digest, platform=str(image.platform), driver_floor=recipe.driver_floor,
    )  # fmt: skip


def _answer(folder: RunFolder, ids: tuple[str, ...], as_json: bool) -> None:
    from msgspec import json

    from kit import say

    root = str(folder.root)
    say.answer(json.encode({"run": root, "jobs": ids}).decode() if as_json else root)
