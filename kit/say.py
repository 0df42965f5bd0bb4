"""stderr is the story: one door for what is told while work goes on. stdout stays the answer's."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

_said: set[str] = set()
_taken: list[tuple[str, float]] = []
_boards: list[Progress] = []  # the one that is shown, once for each step that is on it
_turn = threading.Lock()


def say(message: str) -> None:
    """One line of the story."""
    print(message, file=sys.stderr, flush=True)  # noqa: T201


def once(message: str) -> None:
    """A line that is told a single time in this process, however often its cause recurs."""
    if message not in _said:
        _said.add(message)
        say(message)


def answer(text: str) -> None:
    """One line of the answer, on stdout."""
    print(text, flush=True)  # noqa: T201


@contextlib.contextmanager
def step(title: str) -> Iterator[Callable[[str], None]]:
    """A long step. Yields a function that takes each line of its progress. Several may be under way at once.

    On a terminal: a live line for each with its latest progress and its time. Without one: the title when it
    begins, one line when it ends with the seconds it took; what is handed over meanwhile is not printed.
    An exception passes through, and no end is told.
    """
    began = time.monotonic()
    if sys.stderr.isatty():
        with _live(title) as update:
            yield update
    else:
        say(f"{title} …")
        yield lambda line: None
    seconds = time.monotonic() - began
    _taken.append((title, seconds))
    say(f"{title}: {seconds:.1f} s")


def taken() -> tuple[tuple[str, float], ...]:
    """Title and seconds of every step of this process that ended well, in the order of their ends."""
    return tuple(_taken)


@contextlib.contextmanager
def _live(title: str) -> Iterator[Callable[[str], None]]:
    """A line of the board, which is there as long as any step is."""
    from rich.markup import escape

    with _turn:
        board = _boards[0] if _boards else _board()
        _boards.append(board)
        line = board.add_task(escape(title), latest="", total=None)

    def update(told: str) -> None:
        if latest := told.strip():
            board.update(line, latest=escape(latest))

    try:
        yield update
    finally:
        with _turn:
            board.remove_task(line)
            _boards.pop()
            if not _boards:
                board.stop()


def _board() -> Progress:
    """Steps under way, a line each: what, the latest of it as far as there is room, and the seconds."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.table import Column

    room = Column(ratio=1, no_wrap=True, overflow="ellipsis")
    latest = TextColumn("[dim]{task.fields[latest]}", table_column=room)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), latest, TimeElapsedColumn())
    board = Progress(*columns, console=Console(stderr=True), transient=True, expand=True)
    board.start()
    return board
