"""What Slurm says of this user's jobs, as watching verbs ask for it: few questions, each for many jobs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from kit.errors import SlipworksError
from runner.run_states import ENDED_JOBS, Row
from runner.submitted import Queue
from slurm.answers import Past, Queued
from slurm.client import Client


class Slurm(Queue, Protocol):
    """What is asked of Slurm's client. All raise SlipworksErrors.

    cluster  whose this is, as records name it; None: not known.
    """

    cluster: str | None

    def mine(self) -> Mapping[str, Row]:
        """This user's jobs by id: those that wait or run, and those that ended some minutes ago."""

    def past(self, seconds: float, ids: Sequence[str] = ()) -> Mapping[str, Row] | None:
        """This user's jobs (of `ids`, where given) that were there in the last `seconds`, by the accounting;
        None where there is none."""

    def cancel(self, ids: Sequence[str]) -> None:
        """Ends jobs, in this order; one that has ended already is no failure."""


class Asked:
    """Slurm, asked by its client."""

    def __init__(self, client: Client, cluster: str | None = None) -> None:
        self.client, self.cluster = client, cluster

    def mine(self) -> Mapping[str, Row]:
        return {each.id: of_queued(each) for each in self.client.jobs()}

    def past(self, seconds: float, ids: Sequence[str] = ()) -> Mapping[str, Row] | None:
        found = self.client.history(int(seconds), ids=ids)
        return None if found is None else {each.id: of_past(each) for each in found}

    def cancel(self, ids: Sequence[str]) -> None:
        self.client.cancel(ids)

    def submit(self, script: Path, options: Sequence[str], arguments: Sequence[str] = ()) -> str:
        return self.client.submit(script, options, arguments)

    def commented(self, prefix: str) -> Mapping[str, str]:
        return self.client.commented(prefix)


def reach() -> Asked:
    """Slurm as it is reached from here; MissingToolError, quickly, where it is not."""
    from slurm import client

    name, logins = here()
    return Asked(client.find(logins, os.environ), name)


def here() -> tuple[str | None, tuple[str, ...]]:
    """The cluster that this is, and its login nodes; where that cannot be told, neither."""
    from runner import site

    try:
        found = site.chosen(lenient=True)
    except SlipworksError:
        return None, ()
    return found.name, found.cluster.login


def of_queued(job: Queued) -> Row:
    """Times that Slurm only foretells are left out."""
    return Row(
        id=job.id, state=job.state, name=job.name, reason=job.reason, nodes=job.nodes, comment=job.comment,
        submitted=job.submitted, started=job.started if job.nodes else None,
        ended=job.ended if job.state in ENDED_JOBS else None,
    )  # fmt: skip


def of_past(job: Past) -> Row:
    """Its state without "by 1000"; its exit code: the program's, or 128 + the signal's number."""
    code, _, signal = job.exit_code.partition(":")
    number = int(signal) if signal.isdecimal() else 0
    return Row(
        id=job.id, state=job.state.split()[0] if job.state else "", name=job.name, nodes=job.nodes,
        comment=job.comment, submitted=job.submitted, started=job.started, ended=job.ended,
        code=128 + number if number else int(code) if code.isdecimal() else None, accounted=True,
    )  # fmt: skip
