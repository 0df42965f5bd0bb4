"""Run a job: its image is made or found, its nodes are started, Ray is brought up, its command is run.

The job's log goes to stderr as it grows; the last line on stdout is the run folder, which holds all that is
known of the run. The exit code is the command's.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from containers.engine import Engine
    from runner.job import Job
    from runner.runs import RunFolder
    from runner.submission import Chosen

HELP = "run a job file on a cluster, or on this machine"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("job", type=Path, help="the job file, as examples/hello-grpo/job.yaml")
    parser.add_argument(
        "override", nargs="*", metavar="key=value", help="over the job file's: nodes=1 env.A=b"
    )
    parser.add_argument("--cluster", help="a file of slurm/clusters (default: the setting, else local)")
    parser.add_argument("--engine", help="docker, podman or apptainer (default: the first that works)")
    parser.add_argument("--dry-run", action="store_true", help="print the commands, and run nothing")
    parser.add_argument(
        "--explain", action="store_true", help="print the fixes that apply, with their reasons"
    )


def run(args: argparse.Namespace) -> int:
    import time

    from kit import say, settings
    from runner import job as jobs
    from runner import runs, submission
    from slurm import clusters

    began = time.time()
    chosen = settings.load({"cluster": args.cluster, "engine": args.engine}).settings
    cluster = clusters.load(chosen.cluster or "local")
    job = jobs.load(args.job, args.override)
    if not args.dry_run:
        settings.writable("runs")
        settings.writable("cache")
    folder = runs.named(Path(chosen.runs).expanduser().absolute(), job.name)
    plan = submission.launch(job, cluster, folder.run_id)
    if args.explain:
        for line in submission.explained(job, plan):
            say.answer(line)
    scratch = chosen.cache_folder / "scratch"
    if args.dry_run:
        return _dry(job, folder, scratch, chosen.engine)
    secrets = jobs.secret_values(job)
    engine, image = _image(job, chosen.engine)
    scratch.mkdir(parents=True, exist_ok=True)
    submission.write(folder, job, plan, image, secrets)
    commands = submission.argvs(job, folder, engine, image.reference, scratch)
    remove = submission.remove_argv(job, folder, engine)
    try:
        return submission.run(folder, job, plan, commands, began, remove)
    finally:
        say.answer(str(folder.root))


def _dry(job: Job, folder: RunFolder, scratch: Path, engine: str | None) -> int:
    """Prints each node's command; an image that was not built yet goes by the name that it will have."""
    from kit import say, shell
    from runner import images, planning, submission

    able = images.runs(engine)
    reference = job.image or ""
    if job.arch:
        wanted = planning.Wanted(arch=job.arch, line=job.line, base=job.base)
        reference = images.reference_of(images.planned(wanted), able)
    for argv in submission.argvs(job, folder, able, reference, scratch):
        say.answer(shell.line(argv))
    return 0


def _image(job: Job, engine: str | None) -> tuple[Engine, Chosen]:
    """The job's image, made or found, and the engine that has it."""
    from kit.errors import NotFoundError
    from runner import images
    from runner.submission import Chosen

    able = images.runs(engine)
    if job.arch:
        made = images.make(job.arch, line=job.line, base=job.base, engine=able.name, to_run=True)
        image = made.image
        return able, Chosen(
            reference=made.reference, engine=able.name, arch=job.arch,
            name=image.name, key=image.key, digest=image.digest,
        )  # fmt: skip
    assert job.image
    if able.has(job.image) is None:
        raise NotFoundError(f"{able.name} has no image {job.image}", f"{able.name} pull {job.image}")
    return able, Chosen(reference=job.image, engine=able.name)
