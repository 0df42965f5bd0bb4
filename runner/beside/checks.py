"""What a job may not say of containers beside its own, and what follows from it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kit.errors import UnsupportedError
from runner.beside.asked import SOCKET, Podman

if TYPE_CHECKING:
    from runner.job import Job

IMAGE = re.compile(r"[a-z0-9][\w.:/@-]{0,511}")
MOST = 64


def of(job: Job) -> Podman | None:
    """What the job asks for; None: nothing."""
    if isinstance(job.podman, Podman):
        return job.podman
    return Podman() if job.podman else None


def wrong(job: Job) -> Iterator[tuple[str, str | None]]:
    """Place and complaint."""
    asked = of(job)
    if asked is None:
        return
    for place, image in enumerate(asked.prepull):
        if not IMAGE.fullmatch(image):
            yield f"podman.prepull[{place}]", f"found {image!r}, expected an image such as host/name:tag"
    if not 1 <= asked.at_once <= MOST:
        yield "podman.at_once", f"found {asked.at_once} at once, expected 1 to {MOST}"
    if asked.root is not None and not asked.root.startswith("/"):
        yield "podman.root", f"found {asked.root!r}, expected an absolute path"
    if "DOCKER_HOST" in job.env or (not isinstance(job.egress, bool) and job.egress.docker):
        yield "podman", "found another Docker host, expected one of them"


def demand(job: Job, engine: str) -> None:
    """UnsupportedError where the job's engine is another: its nodes may have no podman."""
    if of(job) and engine != "podman":
        raise UnsupportedError(
            f"the job asks for the node's podman beside it, and runs by {engine}", "--engine podman"
        )


def variables(job: Job) -> dict[str, str]:
    """By which what runs inside finds it."""
    return dict.fromkeys(("DOCKER_HOST", "CONTAINER_HOST"), f"unix://{SOCKET}") if of(job) else {}
