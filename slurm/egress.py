"""How nodes without internet get out, as a site has it."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Literal
from urllib.parse import urlsplit

from msgspec import Struct

PROBE = "https://huggingface.co"


class WayOut(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A site's way out for nodes without internet.

    kind         "ssh": a node opens a SOCKS forward to `host`, which has internet; "socks5" or "http": a
                 proxy that all nodes share at host:port.
    host, port   as nodes reach it; the port of a gateway by ssh is 22 where none is said.
    user         on the gateway; None: the submitter's own name.
    key          file with the key by which ssh gets in unasked; ~ and $NAMES are the login node's. It has no
                 passphrase, and only its owner can read it.
    known_hosts  file with the gateway's own key: no other gateway is trusted.
    direct       networks, beside loopback, private ones and each node's own, that stay direct.
    names        who looks up names: "node", or "gateway" where nodes know none but the cluster's; then
                 proxychains asks the gateway for all that is not in a node's /etc/hosts.
    probe        what a connection through it must reach before the command starts.
    """

    kind: Literal["ssh", "socks5", "http"] = "ssh"
    host: str | None = None
    port: int | None = None
    user: str | None = None
    key: str | None = None
    known_hosts: str = "~/.ssh/known_hosts"
    direct: tuple[str, ...] = ()
    names: Literal["node", "gateway"] = "node"
    probe: str = PROBE


def complaints(way: WayOut) -> Iterator[str]:
    """What types cannot say."""
    if way.kind != "ssh" and way.host and not way.port:
        yield f"egress: a proxy of kind {way.kind} has a host and no port"
    if way.port is not None and not 0 < way.port < 65536:
        yield f"egress: port is {way.port}"
    for name in ("host", "user"):
        if (value := getattr(way, name)) is not None and not is_word(value):
            yield f"egress: {name} is {value!r}, expected one word"
    for each in way.direct:
        if not is_network(each):
            yield f"egress: direct holds {each!r}, expected a network such as 10.4.0.0/16"
    if not is_address(way.probe):
        yield f"egress: probe is {way.probe!r}, expected https://host or http://host:port"


def is_word(text: str) -> bool:
    """Whether ssh takes it for a name: nothing in it that could be an option or two words."""
    return bool(text) and not text.startswith("-") and all(char.isalnum() or char in "._-:" for char in text)


def is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return True


def is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
