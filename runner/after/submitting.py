"""What comes after a run goes into the queue behind it: checked before the run is submitted, made after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from kit import exact, files, say
from kit.errors import InvalidFileError, SlipworksError
from runner import own_secrets, queueing, runs
from runner.after import making
from runner.queueing import Prepared
from runner.runs import RunFolder
from runner.site import Site
from runner.submitted import Queue, Record

FILE = "after.json"
"""The file of a run folder that names the run which comes after it."""


class Behind(Struct, frozen=True):
    """A queue whose jobs begin once those of `ids` have ended, however they did."""

    queue: Queue
    ids: tuple[str, ...]

    def submit(self, script: Path, options: Sequence[str], arguments: Sequence[str] = ()) -> str:
        wait = f"--dependency=afterany:{':'.join(self.ids)}"
        return self.queue.submit(script, [*options, wait], arguments)

    def commented(self, prefix: str) -> Mapping[str, str]:
        return self.queue.commented(prefix)


class Next(Struct, frozen=True, kw_only=True):
    """A run that is ready to come after another."""

    ready: Prepared
    secrets: dict[str, str]


def prepared(first: Prepared, site: Site, *, dry: bool) -> Next | None:
    """What comes after a run that was prepared, as far as anything does; nothing is written.

    Errors are those of any job: an upload that could not be submitted keeps the run from it, too.
    """
    if first.job.after is None:
        return None
    job = making.upload(first.job, site.cluster, site.name, first.at)
    secrets = {} if dry else own_secrets.demanded(job.secrets)
    folder = runs.named(first.at.run.root.parent, job.name)
    ready = queueing.prepared(job, site, folder, dry=dry)
    say.say(f"then: {folder.root.name}, an upload to {first.job.after.upload.repo}")
    return Next(ready=ready, secrets=secrets)


def submit(then: Next | None, record: Record, folder: RunFolder, queue: Queue) -> None:
    """Submits it behind the run's jobs. Where that fails it is told: the run is in the queue by then.

    folder: the run's, which gets the word of what comes after it before Slurm does.
    """
    if then is None:
        return
    after = then.ready.at.run
    try:
        files.write(folder.root / FILE, exact.encode({"run": after.root.name}))
        made = queueing.submit(then.ready, then.secrets, Behind(queue, record.ids))
    except (SlipworksError, OSError) as failed:
        why = failed.message if isinstance(failed, SlipworksError) else str(failed)
        say.say(f"warning: {after.root.name} is not in the queue, and nothing will be uploaded: {why}")
        return
    say.say(f"then job {made.ids[0]}, once {'all of these have' if len(record.ids) > 1 else 'it has'} ended")


def of(folder: RunFolder) -> RunFolder | None:
    """The run that comes after one; None: none does, or it is gone."""
    try:
        named = exact.decode((folder.root / FILE).read_bytes(), dict[str, str])["run"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError) as bad:
        raise InvalidFileError(f"cannot read {folder.root / FILE}: {bad}") from bad
    after = RunFolder(folder.root.parent / named)
    return after if after.launch.exists() else None
