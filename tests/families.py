"""Which tests run one after the other, and which beside others, where `-n` gives several processes.

Live tests go by family, the first word of their file's name (`sandbox`, `slurm`): a family shares parts that
are dear to set up. Unit tests go by file. Live families come first: unit tests fill what they leave.
"""

from __future__ import annotations

import os
import re
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

FAMILY = re.compile(r"(tests/live/test_[a-z]+)")
MOST = 4
"""Processes, however many processors there are: each may have a Slurm and engines of its own."""


def family(nodeid: str) -> str:
    """What runs in one process, in the order of collection."""
    found = FAMILY.match(nodeid)
    return found[1] if found else nodeid.partition("::")[0]


class Families(LoadScopeScheduling):  # type: ignore[misc]
    def _split_scope(self, nodeid: str) -> str:
        return family(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """For `-n auto`: one more than the processors, since live tests wait for half of their time."""
    return min(len(os.sched_getaffinity(0)) + 1, MOST)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    config.option.loadscopereorder = False
    return Families(config, log)
