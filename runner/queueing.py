"""A job's way into Slurm's queue: everything is checked first, then written, then submitted and recorded."""

from __future__ import annotations

from msgspec import Struct, structs

from kit import say, settings
from kit.errors import InvalidFileError, UsageError
from runner import batching, chosen, code, slurm_inside, submission, submitted
from runner.chosen import Found
from runner.egress import submitting as egress
from runner.job import Job
from runner.launch import Launch
from runner.runs import RunFolder
from runner.sandboxes import submitting as sandboxes
from runner.site import Site
from runner.staging import checks as staging
from runner.staging import submitting
from runner.submission import Places
from runner.submitted import Queue, Record
from slurm.script import Batch


class Prepared(Struct, frozen=True, kw_only=True):
    """A job that could be submitted: nothing was written of it yet."""

    job: Job
    plan: Launch
    at: Places
    found: Found
    batch: Batch
    cluster: str


def prepared(job: Job, site: Site, folder: RunFolder, *, dry: bool) -> Prepared:
    """The job as the site gets it. dry: no image is looked for, and no account needed; both are told.

    Errors as of chosen.of; UsageError where the site takes no job without an account.
    """
    cluster = site.cluster
    _demand_account(job, site, dry)
    _tell_of_restarts(job)
    staging.demand(job, cluster)
    asked = batching.asked(job, cluster, folder)
    for note in asked.notes:
        say.say(note)
    engine = chosen.engine_of(job, cluster, site.settings.engine)
    at = submission.places(job, folder, site.settings.cache_folder, _scratch(site, dry))
    found = chosen.of(job, cluster, engine, dry=dry)
    plan = submission.launch(job, cluster, folder.run_id, found.chosen)
    if not dry:
        egress.demand(job, cluster, site.name, plan.egress)
    outfit = slurm_inside.outfit(job, site, dry=dry)
    if outfit:
        plan = outfit.worn(plan)
    servers = sandboxes.servers(job, site, folder, dry=dry)
    _warn_of_driver(job, site, found.chosen.driver_floor)
    if dry:
        submitting.announce(job, plan, at.scratch)
    return Prepared(
        job=job, plan=plan, at=at, found=found, cluster=site.name,
        batch=batching.batch(
            job, plan, cluster, at, found.chosen, asked.options,
            egress.present(plan.egress, outfit.present if outfit else ()),
            servers,
        ),
    )  # fmt: skip


def staged(ready: Prepared) -> Prepared:
    """With all models and data sets that the job needs in the cluster's cache; errors as of
    submitting.brought."""
    return structs.replace(ready, plan=submitting.brought(ready.job, ready.plan, ready.at.scratch))


def submit(ready: Prepared, secrets: dict[str, str], queue: Queue) -> Record:
    """Writes the run folder, submits the chain, and returns its record.

    The record comes before the secrets, so that whatever ends this, `runner status` takes them away. Where
    it was not Slurm that was asked last they are gone at once; from then on they go with the last job.
    """
    folder = ready.at.run
    listed = [code.listed(each) for each in ready.job.checkouts]
    ready.at.make()
    folder.make()
    ready.at.link()
    record = submitted.begin(folder, ready.job.name, ready.cluster, 1 + ready.job.restarts)
    try:
        submission.fill(folder, ready.job, ready.plan, ready.found.chosen, listed)
        batching.write(ready.batch, folder, ready.found.image)
        submission.write_private(folder, ready.plan, secrets)
    except BaseException as broken:
        submitted.failed(folder, record, str(broken) or "it was interrupted")
        raise
    return submitted.submit(folder, record, queue)


def queue(site: Site) -> Queue:
    """Slurm, as it is reached from here; MissingToolError where it is not, saying what is missing."""
    from slurm import client

    return client.find(site.cluster.login)


def _scratch(site: Site, dry: bool) -> str | None:
    """The site's scratch folder. A dry run elsewhere has none, and says so."""
    try:
        return site.scratch
    except InvalidFileError as unset:
        if not dry:
            raise
        say.say(f"note: {unset.message}: your own folders are taken")
        return None


def _demand_account(job: Job, site: Site, dry: bool) -> None:
    if job.sbatch.get("account") or site.cluster.account or not site.cluster.needs_account:
        return
    if dry:
        say.say(f"note: no account is set for {site.name}: its line is left out, and no job would be taken")
        return
    raise UsageError(
        f"{site.name} takes no job without an account, and none is set",
        f'account = "…" below [clusters.{site.name}] in {settings.user_file()}, or sbatch.account=…',
    )


def _tell_of_restarts(job: Job) -> None:
    """Without checkpoints of its own a command has only SkyRL's words to show that it got anywhere."""
    if job.restarts and (job.saved is None or job.saved.shared is not None):
        say.say(
            f"note: restarts: {job.restarts} without `checkpoints: true`: they come after lost nodes and "
            "time-outs; after a command that failed by itself only if its log has SkyRL's `Started: 'step'`"
        )


def _warn_of_driver(job: Job, site: Site, floor: str | None) -> None:
    """A profile's driver is dated, so it refuses nothing: the node measures its own before Ray starts."""
    driver = site.cluster.driver
    if not driver or not floor or not job.gpus or _numbers(driver.version) >= _numbers(floor):
        return
    say.say(
        f"warning: the driver of {site.name} was {driver.version} ({driver.seen}), the image needs {floor} "
        "or newer: choose a line of an older CUDA (line=…), or nodes with a newer driver"
    )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
