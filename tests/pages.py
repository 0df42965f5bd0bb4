"""What the pages for users tell to type, read from their blocks."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs/how-to").glob("*.md"))]
COMMAND = re.compile(r"(?:^|[;|&] *)runner ")


def blocks(text: str, *languages: str) -> list[str]:
    """The lines of all blocks in these languages; where none is said, of those that name no other than sh."""
    found, language = [], None
    for line in text.replace("\\\n", " ").splitlines():
        if line.startswith("```"):
            language = line[3:] if language is None else None
        elif language in (languages or ("", "sh", "bash")):
            found.append(line)
    return found


def separate(text: str, language: str = "") -> list[str]:
    """The blocks in a language, each whole."""
    found: list[str] = []
    inside: str | None = None
    for line in text.splitlines(keepends=True):
        if line.startswith("```"):
            inside = line[3:].strip() if inside is None else None
            if inside == language:
                found.append("")
        elif inside == language:
            found[-1] += line
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
