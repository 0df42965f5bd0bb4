"""What a job says of containers that its command starts beside its own."""

from __future__ import annotations

from msgspec import Struct

SOCKET = "/run/slipworks-podman/podman.sock"
"""Where the API of the node's podman is inside; Docker's clients speak it, too."""


class Podman(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The command may start containers beside its own, as sandboxes are: by the node's podman, without root.

    DOCKER_HOST and CONTAINER_HOST lead to its API. Images and containers are kept in a folder of the
    attempt's own, which goes with it; nothing of anybody else's is seen or removed. The job must run by
    podman itself.

    prepull  images that every node gets before the command starts. One that does not come, or comes damaged,
             is asked for once more; one that is still not there is told and does not end the job.
    at_once  how many at the same time.
    root     a folder of the node's own disk for them; None: Slurm's or the site's temporary folder, or /tmp.
    """

    prepull: tuple[str, ...] = ()
    at_once: int = 4
    root: str | None = None
