"""A block of ports for one node of one job, held against every other job on the machine.

Blocks lie below the kernel's ephemeral range, so no outgoing connection can take a port between the choice
and Ray's bind. The first port of a block is its lock: whoever listens there has the block, also across
containers that share the host's network; the kernel frees it when its holder dies.
"""

from __future__ import annotations

import contextlib
import socket
import zlib
from collections.abc import Iterator
from pathlib import Path

from kit.errors import LaunchError

SIZE = 16
MASTER = 10  # place in the block of the port where node 0's command is met; Ray's come before it
LOWEST = 10000


@contextlib.contextmanager
def held(seed: str) -> Iterator[int]:
    """The first port of a free block, held until the end of `with`.

    Its other ports are free as far as a probe can tell. Begins with the block that `seed` hashes to.
    """
    blocks = range(LOWEST, ephemeral() - SIZE, SIZE)
    start = zlib.crc32(seed.encode()) % len(blocks)
    for turn in range(len(blocks)):
        base = blocks[(start + turn) % len(blocks)]
        lock = _listen(base)
        if lock is None:
            continue
        with lock:
            if all(_free(port) for port in range(base + 1, base + SIZE)):
                yield base
                return
    raise LaunchError(f"no block of {SIZE} free ports between {LOWEST} and {ephemeral()}", "ss -ltn")


def ephemeral(file: Path = Path("/proc/sys/net/ipv4/ip_local_port_range")) -> int:
    """The lowest port that the kernel hands out by itself."""
    try:
        return max(int(file.read_text().split()[0]), LOWEST + 2 * SIZE)
    except (OSError, ValueError, IndexError):
        return 32768


def _listen(port: int) -> socket.socket | None:
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        made.bind(("0.0.0.0", port))
        made.listen(1)
    except OSError:
        made.close()
        return None
    return made


def _free(port: int) -> bool:
    probe = _listen(port)
    if probe:
        probe.close()
    return probe is not None
