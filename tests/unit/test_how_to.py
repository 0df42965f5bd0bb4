"""What the how-to pages tell to type is understood; and what they submit comes to a batch script."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from runner import cli

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs/how-to").glob("*.md"))]
COMMAND = re.compile(r"(?:^|[;|&] *)runner ")


def blocks(text: str) -> list[str]:
    """The lines of all blocks of commands: those that name no other language."""
    found, language = [], None
    for line in text.replace("\\\n", " ").splitlines():
        if line.startswith("```"):
            language = line[3:] if language is None else None
        elif language in ("", "sh", "bash"):
            found.append(line)
    return found


def typed(page: Path) -> list[list[str]]:
    """The words of each command of the kit in the page's blocks: what stands for a name is one."""
    found = []
    for line in filter(COMMAND.search, blocks(page.read_text())):
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";|&")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if set(word) <= set(";|&"):
                if words[:1] == ["runner"] and "…" not in "".join(words):
                    found.append(words[1:])
                words = []
            else:
                words.append(word)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_is_one(page: Path) -> None:
    for words in typed(page):
        cli.parsed([each.strip("[]") for each in words])


def test_commands_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "x\n```\nrunner a 'b c' # d\ne; runner f; g | runner h \\\n  --i\nrunner …\n```\nrunner j\n"
    )
    assert typed(page) == [["a", "b c"], ["f"], ["h", "--i"]]
    assert len([words for page in PAGES for words in typed(page)]) > 40
