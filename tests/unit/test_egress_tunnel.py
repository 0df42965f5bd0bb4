"""The tunnel of a node: one that drops is opened again, and a gateway that refuses is asked ever later."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runner.egress import outlet
from runner.egress.tunnel import Tunnel
from tests.unit.parts_node import seen

LISTENS = """
import socket, sys, time
if sys.argv[2] == "refuses": sys.exit("me@gw: Permission denied (publickey).")
listening = socket.create_server(("127.0.0.1", int(sys.argv[1])))
time.sleep(1000)
"""


@pytest.fixture
def tunnels(tmp_path: Path) -> Iterator[Callable[[str], tuple[Tunnel, list[str]]]]:
    made: list[Tunnel] = []

    def start(how: str) -> tuple[Tunnel, list[str]]:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        told: list[str] = []
        words = [sys.executable, "-c", LISTENS, str(port), how]
        made.append(Tunnel(words, port, tmp_path / "log", {}, told.append))
        made[-1].start()
        return made[-1], told

    yield start
    for each in made:
        each.close()


def test_a_tunnel_that_drops_is_opened_again(
    tunnels: Callable[[str], tuple[Tunnel, list[str]]],
) -> None:
    tunnel, told = tunnels("listens")

    def opened() -> bool:
        tunnel.keep()
        return tunnel.is_open

    for drops in range(3):
        seen(opened)
        assert tunnel.drops == drops
        child = tunnel._child
        assert child
        child.kill()
        child.wait()
        tunnel.keep()
        assert not tunnel.is_open
    seen(opened)
    assert len([each for each in told if "dropped" in each]) == 3
    assert len([each for each in told if "open again" in each]) == 3
    child = tunnel._child
    assert child
    tunnel.close()
    assert child.poll() is not None


def test_a_gateway_that_refuses_is_not_asked_all_the_time(
    tunnels: Callable[[str], tuple[Tunnel, list[str]]],
) -> None:
    tunnel, told = tunnels("refuses")

    def failed() -> bool:
        tunnel.keep()
        return tunnel.failures == 2

    seen(failed)
    began = time.monotonic()
    assert "Permission denied" in tunnel.said() and outlet._refuses(tunnel) and not told
    seen(lambda: tunnel.keep() or tunnel.failures == 3)
    assert time.monotonic() - began >= 0.9, "each pause is longer"
