"""At which address of this machine its sandboxes are reached."""

from __future__ import annotations

import ipaddress
import socket

from kit.errors import HostError
from runner.sandboxes.settings import Settings

ANY = ("", "0.0.0.0", "::")
ELSEWHERE = ("192.0.2.1", 9)
"""An address that nobody has (RFC 5737): which way would it go? No packet is sent."""


def address(settings: Settings) -> str:
    """An IPv4 address: the one that is set, else where the server listens, else this machine's own."""
    named = settings.address or settings.listen
    if named in ANY:
        return own()
    try:
        return str(socket.getaddrinfo(named, None, socket.AF_INET, socket.SOCK_STREAM)[0][4][0])
    except OSError as unknown:
        told = f"the address {named!r} is no IPv4 address: {unknown.strerror}"
        raise HostError(told, "ip -4 addr") from unknown


def own() -> str:
    """By which others reach this machine: the address that its way out has, or else its name's."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(ELSEWHERE)
            return str(probe.getsockname()[0])
        except OSError:
            pass
    try:
        return socket.gethostbyname(socket.gethostname())
    except OSError:
        return "127.0.0.1"


def bindable(address: str) -> str:
    """An address to listen at: a name may be of several."""
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        return "0.0.0.0"


def bracketed(address: str) -> str:
    """An address as it stands before a port."""
    return f"[{address}]" if ":" in address else address
