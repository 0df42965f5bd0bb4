"""The committed reference pages say what the code says."""

from __future__ import annotations

from typing import Any

import pytest

from kit.errors import EXIT_CODES
from kit.settings import NAMES
from runner import cli, reference, reference_job


@pytest.mark.parametrize("name", ["commands.md", "exit-codes.md", "job.md", "settings.md"])
def test_no_drift(name: str) -> None:
    assert (reference.FOLDER / name).read_text() == reference.pages()[name], "make reference"


def test_pages_are_complete() -> None:
    pages = reference.pages()
    assert all(f"## runner {verb}\n" in pages["commands.md"] for verb in cli.verbs())
    assert all(f"| {code} | {name} |" in pages["exit-codes.md"] for name, code in EXIT_CODES.items())
    assert all(f"| `{name}` |" in pages["settings.md"] for name in NAMES)


@pytest.mark.parametrize("struct", reference_job.TABLES, ids=lambda each: each.__name__)
def test_every_key_of_a_job_is_explained(struct: type[Any]) -> None:
    assert set(reference_job.meanings(struct)) == set(struct.__struct_fields__)
    assert not any("  " in said for said in reference_job.meanings(struct).values())
