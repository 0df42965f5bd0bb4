"""The words of a shell's text, quotes resolved; what it would replace or run is only marked."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from kit.errors import InvalidFileError

EXPANDS = frozenset("{(@*#?$!-_") | frozenset(
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
)
"""What makes a `$` more than the character."""


class Word(Struct):
    """text    as a program would get it, but for what `why` names.
    quoted  some of it was.
    name    what stands before the first = outside of quotes; None: there is none.
    why     what in it only a shell can resolve; None: nothing.
    """

    text: str = ""
    quoted: bool = False
    name: str | None = None
    why: str | None = None


class Statement(Struct):
    """line: where it begins, from 1. commands: it has an operator (| & < > or parentheses)."""

    line: int
    words: list[Word]
    commands: bool = False


def statements(text: str, where: str) -> Iterator[Statement]:
    """The statements of a text, one after the other; those without words and operators are left out.
    InvalidFileError for a quote without its end, and for a here-document."""
    return _Scanner(text.removeprefix("\ufeff").replace("\r\n", "\n"), where).statements()


class _Scanner:
    def __init__(self, text: str, where: str) -> None:
        self.text, self.where, self.at = text, where, 0

    @property
    def line(self) -> int:
        return self.text.count("\n", 0, self.at) + 1

    def peek(self, ahead: int = 0) -> str:
        return self.text[self.at + ahead : self.at + ahead + 1]

    def statements(self) -> Iterator[Statement]:
        while self.at < len(self.text):
            self._blanks()
            made = Statement(self.line, [])
            while (here := self.peek()) not in ("", "\n", ";"):
                if here == "#":
                    self._comment()
                elif here in "|&<>()":
                    if self.text.startswith("<<", self.at):
                        raise InvalidFileError(
                            f"{self.where}:{self.line}: a here-document, whose end only a shell could tell"
                        )
                    made.commands = True
                    self.at += 1
                else:
                    made.words.append(self._word())
                self._blanks()
            self.at += 1
            if made.words or made.commands:
                yield made

    def _blanks(self) -> None:
        while self.peek() in (" ", "\t") or self.text.startswith("\\\n", self.at):
            self.at += 2 if self.peek() == "\\" else 1

    def _comment(self) -> None:
        while self.peek() not in ("", "\n"):
            self.at += 1

    def _word(self) -> Word:
        word = Word()
        while (here := self.peek()) and here not in " \t\n;|&<>)":
            if here == "'":
                self._single(word)
            elif here == '"':
                self._double(word)
            elif here == "\\":
                word.quoted = True
                word.text += self.peek(1).replace("\n", "")
                self.at += 2
            elif here in "$`":
                self._dollar(word)
            elif here == "(":
                if word.name is None:  # a function's
                    break
                self._balanced("(", ")")
                word.why = "it is an array"
            else:
                self._plain(word, here)
        return word

    def _plain(self, word: Word, here: str) -> None:
        if here == "=" and word.name is None and not word.quoted:
            word.name = word.text
        elif here == "~" and word.name is not None and word.text == f"{word.name}=":
            word.why = "it begins with ~"
        word.text += here
        self.at += 1

    def _single(self, word: Word) -> None:
        end = self.text.find("'", self.at + 1)
        if end < 0:
            raise self._unclosed("'")
        word.quoted = True
        word.text += self.text[self.at + 1 : end]
        self.at = end + 1

    def _double(self, word: Word) -> None:
        began = self.at
        word.quoted = True
        self.at += 1
        while (here := self.peek()) != '"':
            if not here:
                self.at = began
                raise self._unclosed('"')
            if here == "\\":
                follows = self.peek(1)
                word.text += "" if follows == "\n" else follows if follows in '"\\$`' else here + follows
                self.at += 2
            elif here in "$`":
                self._dollar(word, inside=True)
            else:
                word.text += here
                self.at += 1
        self.at += 1

    def _dollar(self, word: Word, inside: bool = False) -> None:
        """A `$` or a backtick: marked, and what belongs to it left behind. inside: of double quotes."""
        follows = self.peek(1)
        if self.peek() == "`":
            word.why = "it has a command in `…`"
            end = self.text.find("`", self.at + 1)
            if end < 0:
                raise self._unclosed("`")
            self.at = end + 1
        elif follows and follows in "'\"" and not inside:
            word.why = "it has a quote of the form $'…'"
            self.at += 1
            self._skip_quoted(follows)
        elif follows in EXPANDS:
            word.why = "it has a $ that stands for something else"
            self.at += 1
            if follows in "({":
                self._balanced(follows, ")" if follows == "(" else "}")
        else:
            word.text += "$"
            self.at += 1

    def _skip_quoted(self, quote: str) -> None:
        began = self.at
        self.at += 1
        while (here := self.peek()) != quote:
            if not here:
                self.at = began
                raise self._unclosed(quote)
            self.at += 2 if here == "\\" else 1
        self.at += 1

    def _balanced(self, opens: str, closes: str) -> None:
        began, depth = self.at, 0
        while here := self.peek():
            if here in "'\"":
                self._skip_quoted(here)
                continue
            depth += (here == opens) - (here == closes)
            self.at += 2 if here == "\\" else 1
            if not depth:
                return
        self.at = began
        raise self._unclosed(opens)

    def _unclosed(self, what: str) -> InvalidFileError:
        return InvalidFileError(f"{self.where}:{self.line}: a {what} without its end")
