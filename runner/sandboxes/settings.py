"""How a sandbox server is set up; cheap to import."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a sandbox server works.

    engine        podman, apptainer or docker; None: the first of them that works here.
    listen        the address at which the server, and its sandboxes, are reached; another than 127.0.0.1
                  lets other machines ask, with the key.
    address       by which clients call it; None: `listen`, and this machine's own address for 0.0.0.0.
    port          of the server; 0: one that is free.
    cpus          of a slot: a sandbox with resource_factor 1 gets so many processors of its own.
    memory        megabytes of a slot.
    slots         how many; 0: as many as have `cpus` and `memory` of their own, and at least one. More than
                  those share the processors, for an agent waits for its model most of the time.
    reserve       processors that no sandbox gets: for the server, and for builds.
    pids, disk    processes and megabytes that a sandbox may have.
    network       "own": each sandbox has its own where the engine can; "host": none has.
    queue         seconds that a request may wait for a slot; 0: it is told at once to come again (429).
    idle          seconds without any use after which a sandbox is stopped; 0: never.
    longest       seconds after which a sandbox is stopped, whatever it does; 0: never.
    start_within  seconds for an agent-server to say that it is alive.
    pull_within   seconds for an image to be there.
    bake_to       REGISTRY/NAMESPACE to which a base without an agent-server is baked; None: the layer is
                  mounted, which podman and apptainer can.
    layer         the agent-server's layer as the engine mounts it: a squashfs for apptainer, a folder for the
                  others; None: that of the store, made if it is not there. A job's nodes cannot make it.
    prefix        what older clients put before their images' names.
    """

    engine: Literal["podman", "apptainer", "docker"] | None = None
    listen: str = "127.0.0.1"
    address: str | None = None
    port: int = 0
    cpus: int = 4
    memory: int = 8192
    slots: int = 0
    reserve: int = 0
    pids: int = 512
    disk: int = 20480
    network: Literal["own", "host"] = "own"
    queue: float = 0.0
    idle: float = 3600.0
    longest: float = 86400.0
    start_within: float = 120.0
    pull_within: float = 1800.0
    bake_to: str | None = None
    layer: str | None = None
    prefix: str = ""
