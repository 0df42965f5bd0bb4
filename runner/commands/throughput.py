"""Tokens per second, steps and rewards from training logs in SkyRL's form; two runs step by step.

A step's rate is trajectories * avg_response_length / seconds of `generate`. Of two, the answer is a table in
markdown, with the average over the steps that both completed, and what was left out and why. The same goes
into throughput-FIRST-SECOND.json, and as a plot into the .svg beside it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runner.logged import Logged

HELP = "tokens per second from a run's log, or of two runs"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "job", nargs="+", help="one or two: a run (id, name, Slurm job, `last`), a run folder, or a log file"
    )
    parser.add_argument(
        "--trajectories-per-step", "--trajectories", dest="trajectories", type=int, metavar="N",
        help="answers a step (default: what the run's job says)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="as JSON, with the rate of each step")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(),
        metavar="FOLDER",
        help="where the files go (default: here)",
    )


def run(args: argparse.Namespace) -> int:
    from kit.errors import UsageError
    from runner import logged

    if args.trajectories is not None and args.trajectories < 1:
        raise UsageError(f"found --trajectories-per-step {args.trajectories}, expected 1 or more")
    if len(args.job) > 2:
        raise UsageError(f"found {len(args.job)} jobs, expected one or two", "runner throughput JOB JOB")
    found = [logged.find(word) for word in args.job]
    numbers = logged.trajectories(found, args.trajectories)
    if len(found) == 1:
        return _one(found[0], numbers[0], args.json)
    return _two(found[0], found[1], numbers, args)


def _one(found: Logged, trajectories: int, as_json: bool) -> int:
    from msgspec import json

    from kit import say
    from runner import throughput

    result = throughput.measure((line for log in found.lines() for line in log), trajectories)
    if as_json:
        say.answer(json.encode(result).decode())
        return 0
    width = max(len(name) for name, _ in throughput.rows(result))
    for name, value in throughput.rows(result):
        say.answer(f"{name:<{width}}  {value}")
    return 0


def _two(first: Logged, second: Logged, numbers: list[int], args: argparse.Namespace) -> int:
    from msgspec import json

    from kit import files, say
    from runner import comparison, comparison_plot, logged

    labels = logged.labels(first, second)
    runs = [
        each.read(label, number) for each, label, number in zip((first, second), labels, numbers, strict=True)
    ]
    result = comparison.compared(*runs)
    encoded = json.format(json.encode(result))
    for note in logged.notes(first, second, numbers):
        say.say(note)
    say.answer(encoded.decode() if args.json else comparison.markdown(result))
    name = "-".join(("throughput", *(logged.fit_for_a_file(label) for label in labels)))
    for ending, content in (("json", encoded), ("svg", comparison_plot.svg(result))):
        files.write(args.out / f"{name}.{ending}", content)
        say.say(f"written: {args.out / name}.{ending}")
    return 0
