"""What a job says of its way out."""

from __future__ import annotations

from msgspec import Struct


class Egress(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who of a job gets out of nodes without internet, by the way that the cluster's profile has.

    command  the command.
    workers  Ray's workers; Ray's own daemons never.
    docker   a Docker host beyond the gateway, as the gateway sees it: "127.0.0.1:7001" or a socket's path.
             It is forwarded to a socket that this user alone reaches, and DOCKER_HOST leads to it.
    probe    an address to be reached before the command starts, instead of the profile's.
    within   seconds for that.
    """

    command: bool = True
    workers: bool = False
    docker: str | None = None
    probe: str | None = None
    within: float = 60.0
