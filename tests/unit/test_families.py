"""Which tests run in one process where several run."""

from __future__ import annotations

import pytest

from tests.families import family

PAGE = "tests/live/test_sandbox_page.py::test_the_first_command"


@pytest.mark.parametrize(
    ("other", "together"),
    [
        ("tests/live/test_sandbox_front.py::test_two_nodes[a::b]", True),
        ("tests/live/test_sandboxes.py::test_x", False),
        ("tests/live/test_slurm_ends.py::test_x", False),
        ("tests/unit/test_sandbox_client.py::test_x", False),
    ],
)
def test_live_tests_of_a_family_share_a_process(other: str, together: bool) -> None:
    assert (family(PAGE) == family(other)) == together


def test_unit_tests_of_a_file_do() -> None:
    first, second = "tests/unit/test_a.py::test_x", "tests/unit/test_a.py::test_y[b]"
    assert family(first) == family(second) != family("tests/unit/test_a_b.py::test_x")
