"""A job's staging at its submission: what the plan says of it afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from kit import say
from runner.job import Job
from runner.launch import Launch
from runner.staging import asked, cache
from runner.staging.cache import Home
from runner.staging.staged import Staged

if TYPE_CHECKING:
    from runner.staging.bringing import Found


def home(job: Job, plan: Launch, scratch: Path) -> Home:
    """HF_HOME of a job. Pure; errors as of cache.home. scratch: as of Places."""
    return cache.home(plan.env, job.mounts, scratch)


def brought(job: Job, plan: Launch, scratch: Path) -> Launch:
    """The plan once all that the job needs lies in the cache; as it is, where the job needs nothing. What a
    node would not find is an error here. Errors as of bringing.look and bringing.bring."""
    wanted = list(asked.items(job.stage))
    if not wanted:
        return plan
    from runner.staging import bringing  # late: most jobs stage nothing

    where, token = home(job, plan, scratch), bringing.token()
    found = bringing.bring(bringing.look(wanted, where, token), where, token)
    for each in found:
        say.say(f"staged: {each.place.item.told}, commit {each.commit[:12]}, {each.size / 1e9:.2f} GB")
    return told(plan, found, where)


def told(plan: Launch, found: Sequence[Found], where: Home) -> Launch:
    """The plan that says where nodes find it. What the job says of HF_HOME stays, and of the rest. Pure."""
    env = {cache.VARIABLE: where.inside, "SLIPWORKS_STAGED": asked.INSIDE}
    return replace(
        plan, env={**env, **plan.env}, staged=tuple(_entry(each, where.inside) for each in found)
    )  # fmt: skip


def _entry(found: Found, inside: str) -> Staged:
    place, commit = found.place, found.commit
    return Staged(
        name=place.item.name, told=place.item.told, id=place.item.id, commit=commit, home=inside,
        folder=place.tasks(commit) if place.item.tasks else place.snapshot(commit),
        record=place.record(commit), ref=place.ref,
    )  # fmt: skip


def announce(job: Job, plan: Launch, scratch: Path) -> None:
    """For a dry run: says what would be staged where, and asks nobody."""
    for each in asked.items(job.stage):
        say.say(f"note: {each.told} would be staged in {home(job, plan, scratch).here}")
