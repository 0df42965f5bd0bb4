"""What a job may say of the code server; cheap to import."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from msgspec import Struct

from runner.bounds import Least, too_small

PORT = 1234  # open-instruct's own default
VARIABLE = "SLIPWORKS_CODE_SERVER_KEY"  # of the server's key
NEAR = ("127.0.0.1", "localhost", "::1")
"""This machine, as its own programs call it."""


class CodeServer(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A server on every node that runs programs which the model wrote against their tests.

    port        where it listens; CODE_API_URL tells the command. Left out: of the training file's
                code_api_url, else 1234.
    listen      the address; another than 127.0.0.1 lets other machines ask, with the key.
    key         whether a key is asked for: made anew for each run, in the command's variable
                SLIPWORKS_CODE_SERVER_KEY and in the netrc that NETRC names.
    workers     requests at once, others wait; None: a node's CPUs, 16 at most.
    python      what runs the programs: a program on the image's PATH.
    memory      megabytes for one request, with all that its program starts.
    disk        megabytes that a program may write.
    processes   that a program may have at once, threads counted.
    at_least    seconds that every test gets, whatever the request says.
    at_most     seconds that no test may exceed, whatever the request says.
    see         further paths of the image that programs may read.
    isolation   how programs are kept apart: "namespaces", "landlock" or "limits", and nothing less; "best":
                the first of them that the node allows.
    """

    port: int | None = None
    listen: str = "127.0.0.1"
    key: bool = True
    workers: int | None = None
    python: str = "python3"
    memory: int = 2048
    disk: int = 64
    processes: int = 32
    at_least: float = 0.0
    at_most: float = 60.0
    see: tuple[str, ...] = ()
    isolation: Literal["best", "namespaces", "landlock", "limits"] = "best"

    @property
    def where(self) -> str:
        """How this machine reaches it: host and port."""
        everywhere = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}
        host = everywhere.get(self.listen, f"[{self.listen}]" if ":" in self.listen else self.listen)
        return f"{host}:{self.port or PORT}"


def wrong(asked: CodeServer) -> Iterator[tuple[str, str | None]]:
    """Key and complaint; None where nothing is wrong."""
    least: list[Least] = [
        ("port", asked.port, 1, "port"),
        ("workers", asked.workers, 1, "workers"),
        ("memory", asked.memory, 128, "MB of memory"),
        ("disk", asked.disk, 1, "MB of disk"),
        ("processes", asked.processes, 1, "processes"),
        ("at_least", asked.at_least, 0, "seconds"),
        ("at_most", asked.at_most, asked.at_least or 0.01, "seconds"),
    ]
    yield from too_small(least)
    if asked.port and asked.port > 65535:
        yield "port", f"found port {asked.port}, expected 65535 or less"
    for key, text in (("listen", asked.listen), ("python", asked.python)):
        yield key, None if text else f"found an empty {key}"
    for place, path in enumerate(asked.see):
        ok = path.startswith("/") and path != "/"
        yield f"see[{place}]", None if ok else f"found {path!r}, expected an absolute path inside, not /"
