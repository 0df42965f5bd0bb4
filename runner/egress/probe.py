"""A connection through a proxy to an address beyond it, by hand: nothing else tells that the way is open."""

from __future__ import annotations

import socket
import ssl
import struct
from urllib.parse import urlsplit

from msgspec import Struct

ANSWER = 10.0  # seconds for one try


class Proxy(Struct, frozen=True):
    """kind: "socks5" or "http"."""

    kind: str
    host: str
    port: int


def failure(proxy: Proxy, address: str, by_name: bool = False, seconds: float = ANSWER) -> str | None:
    """Why `address` (https://host, http://host:port) cannot be reached through the proxy; None: it can.

    The name is looked up here, as programs do under proxychains; `by_name`: on the other side.
    Something must come back from there: ssh says yes to every connection, before the gateway has made it.
    Whose certificate it is does not matter here; what uses the way checks that itself.
    """
    parts = urlsplit(address)
    secure, host = parts.scheme == "https", parts.hostname or ""
    port = parts.port or (443 if secure else 80)
    try:
        to = host if by_name else socket.gethostbyname(host)
    except (OSError, ValueError) as unknown:  # a name that no DNS could hold, too
        return f"{host} is not known here ({unknown})"
    try:
        with socket.create_connection((proxy.host, proxy.port), timeout=seconds) as line:
            if refused := (_socks if proxy.kind == "socks5" else _connect)(line, to, port):
                return refused
            return _greeting(line, host, secure)
    except (OSError, ValueError) as bad:
        return str(bad) or type(bad).__name__


def _socks(line: socket.socket, host: str, port: int) -> str | None:
    """RFC 1928: no authentication, CONNECT to an address, or to a name that the other side looks up."""
    line.sendall(b"\x05\x01\x00")
    if (chosen := _exactly(line, 2)) != b"\x05\x00":
        return f"the proxy is no open SOCKS5 server: it answered {chosen.hex()}"
    line.sendall(b"\x05\x01\x00" + _address(host) + struct.pack(">H", port))
    _, code, _, kind = _exactly(line, 4)
    _exactly(line, {1: 4, 4: 16}.get(kind) or _exactly(line, 1)[0])
    _exactly(line, 2)
    return f"the proxy could not connect to {host}:{port}: SOCKS5 code {code}" if code else None


def _address(host: str) -> bytes:
    try:
        return b"\x01" + socket.inet_aton(host)
    except OSError:
        name = host.encode("idna")
        return b"\x03" + bytes([len(name)]) + name


def _connect(line: socket.socket, host: str, port: int) -> str | None:
    line.sendall(f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode("ascii"))
    head = b""
    while b"\r\n\r\n" not in head and len(head) < 1 << 16:
        if not (more := line.recv(4096)):
            break
        head += more
    first = head.partition(b"\r\n")[0].decode("latin-1")
    words = first.split()
    if len(words) > 1 and words[0].startswith("HTTP/") and words[1].startswith("2"):
        return None
    return f"the proxy could not connect to {host}:{port}: {first or 'it hung up'}"


def _greeting(line: socket.socket, host: str, secure: bool) -> str | None:
    if secure:
        anyone = ssl.create_default_context()
        anyone.check_hostname, anyone.verify_mode = False, ssl.CERT_NONE
        with anyone.wrap_socket(line, server_hostname=host):
            return None
    line.sendall(f"HEAD / HTTP/1.0\r\nHost: {host}\r\n\r\n".encode("ascii"))
    return None if line.recv(1) else f"nothing came back from {host}"


def _exactly(line: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        if not (more := line.recv(size - len(found))):
            raise OSError("the proxy hung up")
        found += more
    return found
