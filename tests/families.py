"""Which tests run one after the other, and which beside others, where `-n` gives several processes.

Live tests go by family, the first word of their file's name (`sandbox`, `registry`): a family shares parts
that are dear to set up. All files whose tests start a Slurm are one family: its nodes share this machine's
/tmp, where a job's leftovers are looked for, and several at once would wait for processors beyond their
deadlines. Unit tests go by file. Live families come first: unit tests fill what they leave.
"""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

ROOT = Path(__file__).parents[1]
FAMILY = re.compile(r"tests/live/test_[a-z]+")
NODES = re.compile(r"tests\.live\.parts_(slurm|jobs) import")
"""In the text of a file whose tests start a Slurm."""
MOST = 4
"""Processes, however many processors there are: each may have engines of its own."""


@cache
def family(file: str) -> str:
    """What runs in one process, in the order of collection; `file` from the root of this checkout."""
    found = FAMILY.match(file)
    if found and NODES.search((ROOT / file).read_text()):
        return "tests/live on nodes"
    return found[0] if found else file


class Families(LoadScopeScheduling):  # type: ignore[misc]
    def _split_scope(self, nodeid: str) -> str:
        return family(nodeid.partition("::")[0])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """For `-n auto`."""
    return min(len(os.sched_getaffinity(0)), MOST)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    config.option.loadscopereorder = False
    return Families(config, log)
