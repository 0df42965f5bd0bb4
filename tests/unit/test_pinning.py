"""A pin changes three lines of one table, and nothing else."""

from __future__ import annotations

import pytest

from definitions.pinning import pinned
from kit.errors import InvalidFileError

TEXT = """# head
[one]
digest = ""
date = ""
sources = [
    "a",
]
python = "3.12"

[two]
digest = "x"  # stays
date = "y"
sources = []
"""
DIGEST = "sha256:" + "ab" * 32


def test_one_table_changes_and_comments_stay() -> None:
    changed = pinned(TEXT, "one", DIGEST, "2026-01-02", ("r1", "r2"))
    assert changed == (
        f'# head\n[one]\ndigest = "{DIGEST}"\ndate = "2026-01-02"\nsources = ["r1", "r2"]\n'
        'python = "3.12"\n\n' + TEXT[TEXT.index("[two]") :]
    )
    assert pinned(changed, "one", DIGEST, "2026-01-02", ("r1", "r2")) == changed


def test_no_such_table_or_digest() -> None:
    with pytest.raises(InvalidFileError, match=r"no table \[three\]"):
        pinned(TEXT, "three", DIGEST, "", ())
    with pytest.raises(InvalidFileError, match="not a digest"):
        pinned(TEXT, "one", "latest", "", ())
