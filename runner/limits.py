"""The soft limits of this process, and so of all that it starts."""

from __future__ import annotations

import resource
from collections.abc import Mapping

KINDS = {"memlock": resource.RLIMIT_MEMLOCK, "nofile": resource.RLIMIT_NOFILE}
"""By the name that `ulimit` and engines give them, in bytes and in files."""


def here() -> dict[str, tuple[int, int]]:
    """The soft and the hard limit of each kind; -1: none."""
    return {name: resource.getrlimit(kind) for name, kind in KINDS.items()}


def take(soft: Mapping[str, int]) -> list[str]:
    """Sets soft limits, never above the hard ones; returns the kinds that the kernel refused to set."""
    refused = []
    for name, limit in soft.items():
        hard = resource.getrlimit(KINDS[name])[1]
        try:
            resource.setrlimit(KINDS[name], (limit, hard))
        except (ValueError, OSError):
            refused.append(name)
    return refused
