"""Assignments of a shell or dotenv file, read and never run; what only a shell could tell is left out.

Read are NAME=value, `export NAME=value` (declare, typeset, readonly), several in a line, both kinds of
quotes, backslashes, values of several lines, comments, and `NAME = value` of dotenv files. Nothing that is
told quotes a value, nor a word that could be part of one.
"""

from __future__ import annotations

import re

from msgspec import Struct

from kit.errors import InvalidFileError
from runner.shell_words import Statement, Word, statements

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
DECLARE = frozenset({"export", "declare", "typeset", "readonly", "local"})
OPEN = frozenset({"if", "for", "while", "until", "case", "select", "function", "{"})
CLOSE = frozenset({"fi", "done", "esac", "}"})
WITHIN = frozenset({"then", "else", "elif", "do"})
TOLD = frozenset({"source", ".", "unset", "set", "eval", "echo", "cd", "module", "alias", "umask", *OPEN})
"""Commands that may be named: no part of a value."""


class Assigned(Struct, frozen=True):
    """One that was read."""

    name: str
    value: str
    line: int


class Left(Struct, frozen=True):
    """One that was not, or a command; `name` is None where it is no assignment."""

    line: int
    why: str
    name: str | None = None


class Text(Struct, frozen=True):
    """All of a file, in its order. A name may come twice: a shell takes the last."""

    taken: tuple[Assigned, ...]
    left: tuple[Left, ...]


def read(text: str, where: str) -> Text:
    """Pure. InvalidFileError, with the line, for a quote without its end and for a here-document, behind
    which nothing can be told from a value."""
    taken: list[Assigned] = []
    left: list[Left] = []
    depth = 0
    for each in statements(text, where):
        word = each.words[0].text if each.words and not each.words[0].quoted else ""
        depth -= word in CLOSE
        inside = depth > 0
        depth += word in OPEN or (each.commands and len(each.words) > 1 and each.words[-1].text == "{")
        if word in CLOSE or (word in WITHIN and len(each.words) == 1):
            continue
        for found in _found(each):
            if isinstance(found, Assigned) and inside:
                found = Left(found.line, "it is inside a condition or a function", found.name)
            if isinstance(found, Assigned):
                taken.append(found)
            elif found.name or not inside:
                left.append(found)
    if depth != 0:
        raise InvalidFileError(f"{where}: an if, a loop or a function in it has no end, or no beginning")
    return Text(tuple(taken), tuple(left))


def _found(statement: Statement) -> list[Assigned | Left]:
    words, line = list(statement.words), statement.line
    while words and words[0].text in WITHIN:
        words.pop(0)
    if not words:
        return [Left(line, "a command is not run")]
    first = words[0].text if not words[0].quoted else ""
    declared = first in DECLARE
    if declared:
        words = words[1:]
        if any(word.text.startswith("-") and word.text not in ("-x", "-r", "-rx", "-xr") for word in words):
            return [Left(line, f"{first} with such an option is not run")]
        words = [word for word in words if not word.text.startswith("-")]
    elif _spaced(words):
        return [_assigned(words[0].text, words[2].text, words[2], line)]
    names = [word.name if word.name is not None and NAME.fullmatch(word.name) else None for word in words]
    if statement.commands or first in TOLD or not (declared or any(names)):
        what = first if first in TOLD else "a command"
        return [Left(line, f"{what} is not run", next((name for name in names if name), None))]
    if not declared and not all(names):
        name = next(name for name in names if name)
        return [Left(line, "blanks outside of quotes: a value of several words, or a command", name)]
    return [_of(word, name, line) for word, name in zip(words, names, strict=True)]


def _spaced(words: list[Word]) -> bool:
    """NAME = value, which to a shell would be a command called NAME."""
    return len(words) == 3 and words[1].text == "=" and not words[1].quoted and bool(
        NAME.fullmatch(words[0].text)
    )  # fmt: skip


def _of(word: Word, name: str | None, line: int) -> Assigned | Left:
    if name is None:
        plain = word.text if NAME.fullmatch(word.text) else None
        return Left(line, "it has no value here" if plain else "it is no assignment", plain)
    return _assigned(name, word.text[len(name) + 1 :], word, line)


def _assigned(name: str, value: str, word: Word, line: int) -> Assigned | Left:
    if word.why:
        return Left(line, f"{word.why}, which only a shell could tell", name)
    return Assigned(name, value, line) if value else Left(line, "it is empty", name)
