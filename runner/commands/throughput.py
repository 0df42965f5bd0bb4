"""Tokens per second, steps and rewards from training logs in SkyRL's form.

A step's rate is trajectories * avg_response_length / seconds of `generate`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "tokens per second from a run's log"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("log", type=Path, help="a log, or a run folder (its newest attempt's node 0)")
    parser.add_argument("--trajectories", type=int, help="answers a step (default: what the run's job says)")
    parser.add_argument("--json", action="store_true", help="as JSON, with the rate of each step")


def run(args: argparse.Namespace) -> int:
    from msgspec import json

    from kit import say
    from kit.errors import UsageError
    from runner import throughput

    if args.trajectories is not None and args.trajectories < 1:
        raise UsageError(f"found --trajectories {args.trajectories}, expected 1 or more")
    log = _log(args.log)
    number = args.trajectories or _said(args.log)
    with log.open(errors="replace") as lines:
        result = throughput.measure(lines, number)
    if args.json:
        say.answer(json.encode(result).decode())
        return 0
    width = max(len(name) for name, _ in throughput.rows(result))
    for name, value in throughput.rows(result):
        say.answer(f"{name:<{width}}  {value}")
    return 0


def _log(path: Path) -> Path:
    from kit.errors import InvalidFileError

    if path.is_dir():
        logs = sorted(
            path.glob("attempt-*/node-0.log"), key=lambda log: int(log.parent.name.rpartition("-")[2])
        )
        if not logs:
            raise InvalidFileError(f"{path} is not a run folder: no attempt-1/node-0.log in it")
        return logs[-1]
    if not path.exists():
        raise InvalidFileError(f"there is no log {path}")
    return path


def _said(path: Path) -> int:
    from msgspec import DecodeError, convert, json

    from kit.errors import InvalidFileError, UsageError
    from runner.job import Job
    from runner.runs import RunFolder

    hint = "runner throughput LOG --trajectories N"
    file = RunFolder(path).job
    if file.is_file():
        try:
            job = convert(json.decode(file.read_bytes()), Job)
        except (DecodeError, OSError) as bad:  # ValidationError is a DecodeError
            raise InvalidFileError(f"cannot read the run's job {file}: {bad}", hint) from bad
        if job.throughput and job.throughput.trajectories >= 1:
            return job.throughput.trajectories
    raise UsageError("how many trajectories a step is not known", hint)
