"""A port of this host for a sandbox, ours from the answer to /start until its container takes it.

Both clients read a sandbox's URL in that answer and never again, while an image may have to be brought first
or a slot be waited for. Ports lie below the kernel's ephemeral range, so no outgoing connection takes one in
the moment between our letting go and the container's bind.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Collection, Iterator

from kit.errors import HostError
from runner import ports

LOWEST = 20000  # above the blocks that jobs' Ray begins with


class HeldPort:
    """A port that nobody else can bind until `release`. Idempotent; the kernel frees it when we die."""

    def __init__(self, bound: socket.socket) -> None:
        self._bound = bound
        self.number: int = bound.getsockname()[1]

    def release(self) -> None:
        self._bound.close()


def hold(address: str = "", taken: Collection[int] = ()) -> HeldPort:
    """One that was free at `address` (empty: at all of this host's), and is none of `taken`: ports that were
    promised to sandboxes which do not listen yet."""
    for number in numbers():
        if number not in taken and (bound := _bound(address, number)):
            return HeldPort(bound)
    raise HostError(f"no free port between {LOWEST} and {_end()} for a sandbox", "ss -ltn")


def numbers() -> Iterator[int]:
    """All ports that may be tried, from one of them on: which, is chance."""
    every = range(LOWEST, _end())
    first = random.randrange(len(every))
    return (every[(first + turn) % len(every)] for turn in range(len(every)))


def _end() -> int:
    return max(ports.ephemeral(), LOWEST + 4096)


def again(address: str, number: int) -> HeldPort | None:
    """One that was promised by a server before us; None where somebody else has it."""
    bound = _bound(address, number)
    return HeldPort(bound) if bound else None


def _bound(address: str, number: int) -> socket.socket | None:
    """Bound and not listening: a client that comes too early is refused, and not left without an answer."""
    made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    try:
        made.bind((address, number))
    except OSError:
        made.close()
        return None
    return made
