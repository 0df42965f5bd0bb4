"""stderr is the story: one door for what is told while work goes on. stdout stays the answer's."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

_said: set[str] = set()
_taken: list[tuple[str, float]] = []


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
    """A long step. Yields a function that takes each line of its progress.

    On a terminal: one live line with the step's latest progress and its time. Without one: the title when it
    begins, one line when it ends with the seconds it took; what is handed over meanwhile is not printed.
    An exception passes through; the step is then told as failed.
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
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True)
    with console.status(Text(title)) as status:

        def update(line: str) -> None:
            latest = line.strip()
            if latest:
                room = max(20, console.width - len(title) - 8)
                status.update(Text.assemble(title, ("  " + latest[:room], "dim")))

        yield update
