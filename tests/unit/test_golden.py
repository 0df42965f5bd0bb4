"""The committed commands are those that the code makes now."""

from __future__ import annotations

import pytest

from tests.golden import commands

TEXTS = commands.texts()


@pytest.mark.parametrize("name", TEXTS)
def test_no_drift(name: str) -> None:
    """A file that is missing fails as one that differs does."""
    assert (commands.FOLDER / name).read_text() == TEXTS[name], "make golden"


def test_no_file_without_a_case() -> None:
    assert {file.name for file in commands.FOLDER.iterdir()} == set(TEXTS)


def test_nothing_private_is_in_a_command() -> None:
    values = [*commands.AWKWARD.env.values(), *commands.AWKWARD.secrets]
    assert not [name for name, text in TEXTS.items() if any(value in text for value in values)]
