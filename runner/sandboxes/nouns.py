"""The nouns of the sandbox runtime: what is asked for, what is started, and what is known of it.

A sandbox is one container that runs an agent-server. A session is a sandbox by the name that its client gave
it; it outlives the server's process, for it is on disk (records.py) and its container goes on.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

PORT = 60000
"""At which an agent-server listens in a network of its own."""
KEY = "OH_SESSION_API_KEYS_0"
"""The variable by which an agent-server gets its session key."""
LABEL = "slipworks.sandbox"
"""Of a container; its value is the id of the server's state folder: by it a server knows its own."""

Pull = Literal["Always", "IfNotPresent", "Never"]
Phase = Literal["queued", "starting", "ready", "paused", "failed", "stopped"]
"""queued    no slot is free yet
starting  its image is being brought, or its server does not answer yet
ready     its server said that it is alive
failed    it will not become ready; `why` says why. Its container is gone, its log is kept
stopped   on demand, or at the end of a lifetime; its container is gone"""
LIVE: tuple[Phase, ...] = ("queued", "starting", "ready", "paused")


class Wish(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request for a sandbox, in one form whichever client it came from.

    image    as the client names it.
    command  words behind the image's entrypoint, or the whole of a command: see commands.py. Empty: the
             agent-server's own start.
    env      variables of the client; not the session's key.
    workdir  None: the image's.
    user     as the client asks; what becomes of it is said in commands.py.
    factor   times the CPUs and the memory of one slot: 1, 2, 4 or 8.
    """

    session: str
    image: str
    command: tuple[str, ...] = ()
    env: dict[str, str] = {}
    workdir: str | None = None
    user: int | None = None
    pull: Pull = "IfNotPresent"
    factor: int = 1


class Session(Struct, frozen=True, kw_only=True):
    """What is known of a sandbox. Times: seconds since 1970.

    id        of the sandbox, `[0-9a-f]{16}`: no client chooses it. Its container is `slipworks-ID`.
    wish      what was asked for.
    phase     see Phase. why: of one that failed, or whose lifetime was over, in one line.
    url, key  of its agent-server, from the very beginning: both clients read them in the answer to /start,
              and never again. The key is shown to clients of the server alone, and to no log.
    engine    by which its container is started; empty before that.
    cpus      the numbers of its own processors; slots: how many slots it holds.
    began     when it was asked for; admitted: when it got its slots; started: when its container was; used:
              when a client last asked for it, or its server was last busy.
    """

    id: str
    wish: Wish
    phase: Phase = "queued"
    why: str = ""
    url: str = ""
    key: str = ""
    engine: str = ""
    cpus: tuple[int, ...] = ()
    slots: int = 1
    began: float = 0.0
    admitted: float = 0.0
    started: float = 0.0
    ready: float = 0.0
    used: float = 0.0
    ended: float = 0.0

    @property
    def name(self) -> str:
        """Of its container."""
        return f"slipworks-{self.id}"

    @property
    def port(self) -> int:
        """Of its URL; 0 where that names none."""
        said = self.url.rpartition(":")[2]
        return int(said) if said.isdecimal() else 0

    @property
    def live(self) -> bool:
        return self.phase in LIVE

    def __repr__(self) -> str:
        return f"Session({self.id}, {self.wish.session!r}, {self.phase})"


class Ready(Struct, frozen=True, kw_only=True):
    """An image that a backend can start now, and how an agent-server is started in it. Made by images.py.

    reference  the engine's own name of it, or a SIF's path.
    mount      words for the engine that mount the agent layer; empty where the image has it baked.
    entrypoint the words of the image's entrypoint that are kept (baked ones); empty: cleared. Of a SIF always
               empty: `command` is then all of it.
    command    the whole command behind that entrypoint, without `--host` and `--port`.
    user       the image's own, for an engine that does not know it (a SIF's); None: not known, or the engine
               knows it.
    workdir    the same of its working folder.
    """

    reference: str
    mount: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    user: str | None = None
    workdir: str | None = None


class Limits(Struct, frozen=True, kw_only=True):
    """What one sandbox may have. memory, disk: bytes. pids: processes and threads."""

    cpus: tuple[int, ...] = ()
    memory: int = 8 << 30
    pids: int = 512
    disk: int = 20 << 30


class Start(Struct, frozen=True, kw_only=True):
    """All that a backend needs to start one container.

    port    of the host, at which clients reach its server: the desk chose it and held it (held_port.py) until
            a moment ago, for its URL was told before it is started. In a network of its own the server
            listens at PORT, published at this one; in the host's network at this one itself.
    address of the host, at which clients reach it: others than loopback's where they are on other nodes.
    secret  the sandbox's variables, the client's and the session key: their values stand in no argv.
    folder  this sandbox's own, 0700, removed with it: the log, the env file, scratch of the backend.
    """

    id: str
    name: str
    state: str
    image: Ready
    secret: dict[str, str] = {}
    workdir: str | None = None
    limits: Limits = Limits()
    address: str = "127.0.0.1"
    port: int = 0
    folder: str = ""

    @property
    def url(self) -> str:
        return f"http://{self.address}:{self.port}"

    def __repr__(self) -> str:
        return f"Start({self.name}, {self.image.reference})"


class Use(Struct, frozen=True):
    """What a sandbox uses now. memory, disk: bytes; pids: processes and threads. None: not known here."""

    memory: int | None = None
    pids: int | None = None
    disk: int | None = None
