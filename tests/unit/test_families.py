"""Which tests run in one process where several run."""

from __future__ import annotations

import re
from pathlib import Path

from tests.families import ROOT, family

LIVE = sorted(str(each.relative_to(ROOT)) for each in Path(ROOT, "tests/live").glob("test_*.py"))
PAGE = "tests/live/test_sandbox_podman.py"


def test_live_tests_of_a_family_share_a_process() -> None:
    assert family(PAGE) == family("tests/live/test_sandbox_front.py")
    others = ("live/test_registry.py", "live/test_slurm_ends.py", "unit/test_sandbox_job.py")
    assert family(PAGE) not in {family(f"tests/{each}") for each in others}


def test_no_two_processes_start_a_slurm() -> None:
    """Who asks for one by the name of its fixture is found, too, however it is imported."""
    asking = [each for each in LIVE if re.search(r"\bslurm(_like)?: ", (ROOT / each).read_text())]
    assert len(asking) > 5
    assert len({family(each) for each in [*asking, "tests/live/test_sandbox_slurm.py"]}) == 1


def test_unit_tests_of_a_file_do() -> None:
    assert family("tests/unit/test_a.py") == "tests/unit/test_a.py" != family("tests/unit/test_a_b.py")
