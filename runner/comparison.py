"""Two runs' tokens per second, step by step: what both completed, what was left out and why. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from runner.training_log import Step

AGAIN = "made again after a resume"


class Run(Struct, frozen=True, kw_only=True):
    """One of two to be compared. label: what it is called; source: its run folder or log.

    trajectories  how many a step has.
    """

    label: str
    source: str
    trajectories: int
    steps: tuple[Step, ...]


class Left(Struct, frozen=True, kw_only=True):
    """A step that counts for nothing. attempt: in which of the run's logs it stands, from 1."""

    run: str
    step: int
    attempt: int
    why: str


class Row(Struct, frozen=True, kw_only=True):
    """A step's tokens per second in both; None: that run has no such step."""

    step: int
    first: float | None
    second: float | None

    @property
    def paired(self) -> bool:
        return self.first is not None and self.second is not None


class Change(Struct, frozen=True, kw_only=True):
    """What is said in numbers of two rates. percent: None where the first is 0."""

    first: float
    second: float
    delta: float
    percent: float | None


class Side(Struct, frozen=True, kw_only=True):
    """A run as it was read. steps: that count; attempts: in which there are any."""

    label: str
    source: str
    trajectories_per_step: int
    steps: int
    attempts: int


class Comparison(Struct, frozen=True, kw_only=True):
    """All of it. average: over the steps that both completed; None: there is none."""

    runs: tuple[Side, Side]
    rows: tuple[Row, ...]
    paired: int
    average: Change | None
    left_out: tuple[Left, ...]


def compared(first: Run, second: Run) -> Comparison:
    """The two, step by step. A step that a run made twice counts as it was made last."""
    (one, left), (two, others) = counted(first), counted(second)
    left = [*left, *_alone(first, one, two, second), *others, *_alone(second, two, one, first)]
    rates = [_rates(first, one), _rates(second, two)]
    rows = tuple(
        Row(step=number, first=rates[0].get(number), second=rates[1].get(number))
        for number in sorted({*one, *two})
    )
    both = [number for number in one if number in two]
    average = change(*(_mean([each[number] for number in both]) for each in rates)) if both else None
    return Comparison(
        runs=(_side(first, one), _side(second, two)), rows=rows, paired=len(both), average=average,
        left_out=tuple(left),
    )  # fmt: skip


def counted(run: Run) -> tuple[dict[int, Step], list[Left]]:
    """Number of a step -> the step that counts, and all that were left out."""
    latest: dict[int, Step] = {}
    left: list[Left] = []
    for step in run.steps:
        if lack := step.lacks:
            left.append(_left(run, step, lack))
            continue
        if before := latest.get(step.number):
            left.append(_left(run, before, AGAIN))
        latest[step.number] = step
    left.sort(key=lambda each: (each.attempt, each.step))
    return latest, left


def change(first: float, second: float) -> Change:
    delta = second - first
    return Change(first=first, second=second, delta=delta, percent=100 * delta / first if first else None)


def _left(run: Run, step: Step, why: str) -> Left:
    return Left(run=run.label, step=step.number, attempt=step.attempt, why=why)


def _alone(run: Run, mine: dict[int, Step], others: dict[int, Step], other: Run) -> list[Left]:
    """The steps that only one completed: they are shown, and are not in the average."""
    why = f"{other.label} has not completed it"
    return [_left(run, mine[number], why) for number in sorted(mine) if number not in others]


def _rates(run: Run, steps: dict[int, Step]) -> dict[int, float]:
    return {number: step.rate(run.trajectories) or 0.0 for number, step in steps.items()}


def _side(run: Run, steps: dict[int, Step]) -> Side:
    return Side(
        label=run.label, source=run.source, trajectories_per_step=run.trajectories, steps=len(steps),
        attempts=len({each.attempt for each in run.steps}),
    )  # fmt: skip


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def markdown(found: Comparison) -> str:
    """The table, with its average, and below it what was left out."""
    first, second = (_cell(run.label) for run in found.runs)
    lines = [f"# Rollout tokens/sec: {first} against {second}", ""]
    for run in found.runs:
        told = f"{run.steps} step(s), {run.trajectories_per_step} trajectories each"
        lines.append(f"- {_cell(run.label)}: `{run.source}`, {told}")
    lines += ["", *_table(found, (first, second))]
    if not found.paired:
        lines += ["", "No step was completed by both."]
    if found.left_out:
        lines += ["", "Left out:", ""]
        for run in found.runs:
            mine = [each for each in found.left_out if each.run == run.label]
            lines += [f"- {_cell(run.label)}, {said}" for said in _gathered(mine, run.attempts > 1)]
    return "\n".join(lines)


def _gathered(left: Sequence[Left], several: bool) -> list[str]:
    """Steps with the same reason in one line each."""
    reasons = dict.fromkeys((each.why, each.attempt) for each in left)
    found = []
    for why, attempt in reasons:
        numbers = sorted({each.step for each in left if (each.why, each.attempt) == (why, attempt)})
        where = f" (attempt {attempt})" if several else ""
        found.append(f"step {_ranges(numbers)}{where}: {why}")
    return found


def _ranges(numbers: Sequence[int]) -> str:
    """1, 2, 3, 7 as "1-3, 7"."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in spans)


def _table(found: Comparison, labels: tuple[str, str]) -> list[str]:
    heads = ("Step", *(f"{label} tokens/sec" for label in labels), "Delta", "Delta %")
    rows = [_row(str(row.step), row.first, row.second) for row in found.rows]
    if found.average:
        name = f"Average of {found.paired}"
        rows.append(_row(name, found.average.first, found.average.second))
    widths = [max(len(row[place]) for row in (heads, *rows)) for place in range(len(heads))]
    rule = "|" + "|".join("-" * (width + 1) + ":" for width in widths) + "|"
    return [_line(heads, widths), rule, *(_line(row, widths) for row in rows)]


def _row(name: str, first: float | None, second: float | None) -> tuple[str, ...]:
    told = tuple("-" if rate is None else f"{rate:.1f}" for rate in (first, second))
    if first is None or second is None:
        return (name, *told, "-", "-")
    made = change(first, second)
    percent = "-" if made.percent is None else f"{made.percent:+.1f}%"
    return (name, *told, f"{made.delta:+.1f}", percent)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "| " + " | ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True)) + " |"


def _cell(text: str) -> str:
    """A name as it can stand in a table."""
    return " ".join(text.replace("|", "\\|").split())
