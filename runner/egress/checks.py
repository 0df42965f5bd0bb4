"""What a job may not say of its way out, beyond what types tell."""

from __future__ import annotations

from collections.abc import Iterator

from runner.egress.asked import Egress
from slurm import egress


def wrong(asked: Egress | bool) -> Iterator[tuple[str, str | None]]:
    """Place and complaint."""
    if isinstance(asked, bool):
        return
    if asked.docker is not None and not _is_docker(asked.docker):
        yield "egress.docker", f"found {asked.docker!r}, expected host:port or the path of a socket"
    if asked.probe is not None and not egress.is_address(asked.probe):
        yield "egress.probe", f"found {asked.probe!r}, expected https://host or http://host:port"
    if not asked.within > 0:
        yield "egress.within", f"found {asked.within:g} seconds, expected more than 0"


def _is_docker(text: str) -> bool:
    """ssh's own forms of what a forward leads to; a colon in a path would be one of its separators."""
    if text.startswith("/"):
        return ":" not in text and "\n" not in text
    host, _, port = text.rpartition(":")
    return egress.is_word(host) and ":" not in host and port.isdecimal() and 0 < int(port) < 65536
