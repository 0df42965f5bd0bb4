"""What an image is called in a registry, read as Docker reads it."""

from __future__ import annotations

import re

from msgspec import Struct

from kit.errors import InvalidFileError
from kit.nouns import check_digest

HUB = "docker.io"
SUCH_AS = "such as registry.example.org/team/name:tag"
_HOST = re.compile(r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?|\[[0-9a-fA-F:.]+\])(?::[0-9]+)?")
_PATH = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_LOOPBACK = re.compile(r"(?:localhost|127(?:\.[0-9]+){3}|\[::1\])(?::[0-9]+)?")


class Reference(Struct, frozen=True):
    """`host/repository:tag@digest`. A digest wins over a tag, which then is there for people."""

    host: str
    repository: str
    tag: str | None = None
    digest: str | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """`python:3.12` is docker.io/library/python:3.12; a first part with a dot or a port, or `localhost`,
        is a host; no tag and no digest means `latest`."""
        rest, _, digest = text.removeprefix("docker://").partition("@")
        first, slash, path = rest.partition("/")
        if not slash or not (first == "localhost" or any(mark in first for mark in ".:")):
            first, path = HUB, rest
        path, colon, tag = path.partition(":")
        host = HUB if first in ("index.docker.io", "registry-1.docker.io") else first
        if host == HUB and "/" not in path:
            path = f"library/{path}"
        fits = _HOST.fullmatch(host) and _PATH.fullmatch(path) and (not colon or _TAG.fullmatch(tag))
        if not fits or ("@" in text and not digest):
            raise InvalidFileError(
                f"not an image reference: found {text!r}, expected [host[:port]/]name[:tag][@sha256:…] "
                "with a name in lower case",
                SUCH_AS,
            )
        if digest:
            try:
                check_digest(digest, f"the reference {text!r}")
            except InvalidFileError as bad:
                raise InvalidFileError(bad.message, SUCH_AS) from bad
        return cls(host, path, tag or (None if digest else "latest"), digest or None)

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.host}/{self.repository}{tag}" + (f"@{self.digest}" if self.digest else "")

    @property
    def wanted(self) -> str:
        """What to ask the registry for: the digest if there is one, else the tag."""
        return self.digest or self.tag or "latest"


def api(host: str, insecure: bool = False) -> str:
    """The address of a registry's API. Plain http only for this very machine, or where it is asked for."""
    if host == HUB:
        return "https://registry-1.docker.io/v2"
    plain = insecure or _LOOPBACK.fullmatch(host)
    return f"{'http' if plain else 'https'}://{host}/v2"
