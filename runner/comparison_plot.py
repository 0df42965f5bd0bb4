"""A comparison as a picture: an SVG of two lines, written by hand, that any browser shows. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape

from runner.comparison import Comparison, Row

WIDTH, HEIGHT = 760, 440
LEFT, RIGHT, TOP, BOTTOM = 76, 20, 64, 48
COLOURS = ("#4477aa", "#ee6677")  # told apart by those who do not see red or green
TICKS = 6  # about so many a direction
DOTS = 80  # steps up to which each has a dot


def svg(found: Comparison) -> str:
    """Tokens per second over steps, a line each, with gaps where a step was left out."""
    across = Scale([float(row.step) for row in found.rows], LEFT, WIDTH - RIGHT, whole=True)
    rates = [rate for row in found.rows for rate in (row.first, row.second) if rate is not None]
    up = Scale([0.0, *rates], HEIGHT - BOTTOM, TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        f'height="{HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        *_axes(across, up),
    ]
    for place, colour in enumerate(COLOURS):
        points = [(row.step, _of(row, place)) for row in found.rows]
        parts += _line(points, across, up, colour)
    for place, colour in enumerate(COLOURS):
        y = 20 + 20 * place
        parts.append(f'<rect x="{LEFT}" y="{y - 9}" width="18" height="4" fill="{colour}"/>')
        parts.append(f'<text x="{LEFT + 26}" y="{y - 2}">{escape(_named(found, place))}</text>')
    return "\n".join([*parts, "</svg>", ""])


class Scale:
    """From numbers to a place on the page."""

    def __init__(self, values: Sequence[float], begin: float, end: float, whole: bool = False) -> None:
        low, high = min(values, default=0.0), max(values, default=0.0)
        self.step = _nice((high - low) / TICKS, whole)
        self.low = math.floor(low / self.step) * self.step if not whole else low
        self.high = max(math.ceil(high / self.step) * self.step if not whole else high, self.low + self.step)
        self.begin, self.end = begin, end

    def __call__(self, value: float) -> str:
        at = self.begin + (value - self.low) / (self.high - self.low) * (self.end - self.begin)
        return f"{at:.1f}"

    def ticks(self) -> Iterator[float]:
        first = math.ceil(self.low / self.step)
        for number in range(first, math.floor(self.high / self.step) + 1):
            yield number * self.step


def _nice(step: float, whole: bool) -> float:
    """The next of 1, 2 and 5 times a power of ten."""
    if step <= 0 or not math.isfinite(step):
        return 1.0
    power = 10.0 ** math.floor(math.log10(step))
    found = next(times * power for times in (1, 2, 5, 10) if times * power >= step * (1 - 1e-9))
    return max(found, 1.0) if whole else found


def _of(row: Row, place: int) -> float | None:
    return row.second if place else row.first


def _named(found: Comparison, place: int) -> str:
    average = found.average
    if average is None:
        return found.runs[place].label
    mean = average.second if place else average.first
    more = f", {average.percent:+.1f}%" if place and average.percent is not None else ""
    return f"{found.runs[place].label}: {mean:.1f} tokens/sec over {found.paired} paired steps{more}"


def _axes(across: Scale, up: Scale) -> Iterator[str]:
    for value in up.ticks():
        y = up(value)
        yield f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}" stroke="#dddddd"/>'
        yield f'<text x="{LEFT - 8}" y="{y}" dy="4" text-anchor="end">{value:g}</text>'
    for value in across.ticks():
        yield f'<text x="{across(value)}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{value:g}</text>'
    yield f'<text x="{(LEFT + WIDTH - RIGHT) / 2:g}" y="{HEIGHT - 10}" text-anchor="middle">step</text>'
    middle = (TOP + HEIGHT - BOTTOM) / 2
    yield (
        f'<text x="18" y="{middle:g}" text-anchor="middle" transform="rotate(-90 18 {middle:g})">'
        "rollout tokens/sec</text>"
    )


def _line(points: Sequence[tuple[int, float | None]], across: Scale, up: Scale, colour: str) -> Iterator[str]:
    """A line for each stretch of steps that follow one another; dots where they are few, or alone."""
    for stretch in _stretches(points):
        places = [(across(step), up(rate)) for step, rate in stretch]
        if len(places) > 1:
            ways = " ".join(f"{x},{y}" for x, y in places)
            yield f'<polyline points="{ways}" fill="none" stroke="{colour}" stroke-width="2"/>'
        if len(points) <= DOTS or len(places) == 1:
            yield from (f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>' for x, y in places)


def _stretches(points: Sequence[tuple[int, float | None]]) -> list[list[tuple[int, float]]]:
    found: list[list[tuple[int, float]]] = []
    for step, rate in points:
        if rate is None:
            continue
        if found and found[-1][-1][0] == step - 1:
            found[-1].append((step, rate))
        else:
            found.append([(step, rate)])
    return found
