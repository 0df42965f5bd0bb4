"""What a site's network between nodes needs. Its own module, so that nodes need not know of clusters."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

FOLDER = "/slipworks-fabric"
"""The folder inside in which the node's own libraries of its network lie."""


class Fabric(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The fast network between nodes, as a container needs it.

    kind         "slingshot" (libfabric, cxi), "infiniband" (verbs) or "ethernet".
    devices      globs of device files of the host that go inside: /dev/infiniband, /dev/cxi*.
    libraries    globs of the host's libraries that go inside, never its C library: NCCL's plugin, libfabric.
    environment  of Ray and the command, unless the user says otherwise.
    """

    kind: Literal["slingshot", "infiniband", "ethernet"]
    devices: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    environment: dict[str, str] = {}
