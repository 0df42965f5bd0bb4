"""Tokens per second out of a training log in SkyRL's form.

A step's rate is trajectories * avg_response_length / seconds of `generate`; training_log.py reads it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from msgspec import Struct

from runner.training_log import steps


class Throughput(Struct, frozen=True, kw_only=True):
    """A log in numbers. None: the log does not say.

    steps          whole steps; cut_off: steps that began and did not end.
    tokens_per_second  the mean of the steps' rates.
    rates          tokens per second of each whole step that tells them.
    """

    steps: int
    cut_off: int
    trajectories: int
    first_reward: float | None
    last_reward: float | None
    tokens_per_second: float | None
    generate_seconds: float | None
    rates: tuple[float, ...]


def measure(lines: Iterable[str], trajectories: int) -> Throughput:
    """The numbers of a log; `trajectories` is how many answers a step generates."""
    every = steps(lines)
    whole = [step for step in every if step.whole]
    rewards = [step.reward for step in whole if step.reward is not None and math.isfinite(step.reward)]
    rates = tuple(rate for step in whole if (rate := step.rate(trajectories)) is not None)
    seconds = [step.seconds for step in whole if step.seconds is not None]
    return Throughput(
        steps=len(whole),
        cut_off=len(every) - len(whole),
        trajectories=trajectories,
        first_reward=rewards[0] if rewards else None,
        last_reward=rewards[-1] if rewards else None,
        tokens_per_second=round(sum(rates) / len(rates), 1) if rates else None,
        generate_seconds=round(sum(seconds), 4) if seconds else None,
        rates=tuple(round(rate, 1) for rate in rates),
    )


def rows(result: Throughput) -> list[tuple[str, str]]:
    """Name and value, for a table."""

    def told(value: float | None, form: str) -> str:
        return "not in the log" if value is None else format(value, form)

    cut = f" (and {result.cut_off} cut off)" if result.cut_off else ""
    return [
        ("steps", f"{result.steps}{cut}"),
        ("mean reward, first step", told(result.first_reward, ".3f")),
        ("mean reward, last step", told(result.last_reward, ".3f")),
        ("seconds generating", told(result.generate_seconds, ".2f")),
        ("tokens per second", told(result.tokens_per_second, ",.0f")),
    ]


def show(result: Throughput) -> None:
    """The table, on stderr: drawn on a terminal, plain lines elsewhere."""
    import sys

    from kit import say

    table = rows(result)
    if not sys.stderr.isatty():
        width = max(len(name) for name, _ in table)
        for name, value in table:
            say.say(f"{name:<{width}}  {value}")
        return
    from rich.console import Console
    from rich.table import Table

    drawn = Table(show_header=False)
    drawn.add_column()
    drawn.add_column(justify="right")
    for name, value in table:
        drawn.add_row(name, value)
    Console(stderr=True).print(drawn)
