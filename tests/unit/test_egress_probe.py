"""Whether a way out is open: a probe believes only what comes back, and says what is wrong."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator

import pytest

from runner.egress import probe
from runner.egress.probe import Proxy
from tests.unit.parts_listening import listening

Server = Callable[[Callable[[socket.socket], None]], int]


@pytest.fixture
def server() -> Iterator[Server]:
    """(what it does with each connection) -> its port."""
    with contextlib.ExitStack() as open_:
        yield lambda each: open_.enter_context(listening(each))


def socks(code: int, then: bytes) -> Callable[[socket.socket], None]:
    def each(line: socket.socket) -> None:
        line.recv(3)
        line.sendall(b"\x05\x00")
        line.recv(100)
        line.sendall(bytes([5, code, 0, 1, 0, 0, 0, 0, 0, 0]))
        line.recv(100)  # also before it hangs up: what nobody has read makes a reset of it
        line.sendall(then)

    return each


def answers(text: bytes, then: bytes = b"") -> Callable[[socket.socket], None]:
    def each(line: socket.socket) -> None:
        line.recv(1000)
        line.sendall(text)
        if text:
            line.recv(1000)
        line.sendall(then)

    return each


@pytest.mark.parametrize(
    ("kind", "does", "wrong"),
    [
        ("socks5", socks(0, b"HTTP/1.0 404"), None),
        ("socks5", socks(0, b""), "nothing came back"),
        ("socks5", socks(5, b""), "SOCKS5 code 5"),
        ("socks5", answers(b"\x05\xff"), "no open SOCKS5 server"),
        ("socks5", answers(b""), "hung up"),
        ("http", answers(b"HTTP/1.1 200 OK\r\n\r\n", b"x"), None),
        ("http", answers(b"HTTP/1.1 200 OK\r\n\r\n"), "nothing came back"),
        ("http", answers(b"HTTP/1.1 407 Authenticate\r\n\r\n"), "407 Authenticate"),
        ("http", answers(b""), "hung up"),
    ],
)
def test_a_probe_believes_only_what_comes_back(
    server: Server, kind: str, does: Callable[[socket.socket], None], wrong: str | None
) -> None:
    """A SOCKS server may say yes before it has tried, as ssh does."""
    found = probe.failure(
        Proxy(kind, "127.0.0.1", server(does)), "http://web.test:81", by_name=True, seconds=5
    )
    assert found is None if wrong is None else wrong in str(found)


def test_a_name_is_looked_up_here_as_programs_do(server: Server) -> None:
    heard: list[bytes] = []

    def each(line: socket.socket) -> None:
        heard.append(line.recv(1000))

    port = server(each)
    told = probe.failure(Proxy("http", "127.0.0.1", port), "http://none.invalid")
    assert told and "none.invalid is not known here" in told and not heard
    probe.failure(Proxy("http", "127.0.0.1", port), "http://localhost:7")
    assert heard[0].startswith(b"CONNECT 127.0.0.1:7 ")


def test_a_proxy_that_is_not_there(server: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert "refused" in str(probe.failure(Proxy("socks5", "127.0.0.1", port), "https://x.test", by_name=True))


def test_a_name_that_cannot_be_one_is_told() -> None:
    told = probe.failure(Proxy("http", "127.0.0.1", 9), "https://a..b")
    assert told and "a..b is not known here" in told
