"""stderr is the story: one door for what is told while work goes on. stdout stays the answer's."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_said: set[str] = set()
_taken: list[tuple[str, float]] = []
_boards: list[Progress] = []  # the one that is shown while steps are under way
_turn = threading.Lock()


def say(message: str) -> None:
    """One line of the story, whole whatever other threads say."""
    print(f"{message}\n", end="", file=sys.stderr, flush=True)  # noqa: T201


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
    lines: list[TaskID] = []
    try:
        with _turn:
            if not _boards:
                _boards.append(_board())
                _boards[0].start()
            board = _boards[0]
            lines.append(board.add_task(title, latest="", total=None))

        def update(told: str) -> None:
            if latest := " ".join(told.split()):
                board.update(lines[0], latest=latest)

        yield update
    finally:
        with _turn:
            for line in lines:
                board.remove_task(line)
            if _boards and not _boards[0].tasks:
                _boards.pop().stop()
            elif _boards:
                _boards[0].refresh()  # what is said next must not draw the line once more


def _board() -> Progress:
    """Steps under way, a line each: what, the latest of it as far as there is room, and the seconds."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.table import Column

    console = Console(stderr=True)
    title = Column(no_wrap=True, overflow="ellipsis", max_width=max(20, console.width - 32))
    rest = Column(no_wrap=True, overflow="ellipsis", ratio=1)
    what = TextColumn("{task.description}", markup=False, table_column=title)
    latest = TextColumn("{task.fields[latest]}", style="dim", markup=False, table_column=rest)
    columns = (SpinnerColumn(), what, latest, TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True, expand=True)
