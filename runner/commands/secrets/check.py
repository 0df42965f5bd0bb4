"""Say of each secret where its value comes from: those of a job and of what comes after it, else all that are
stored.

A variable of the environment comes before the file. The answer tells no value. Exit code 2 where a job's is
missing.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runner.job import Job

HELP = "say where the secrets of a job come from"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("job", nargs="?", type=Path, help="the job file (default: what is stored)")
    parser.add_argument("override", nargs="*", metavar="key=value", help="over the job file's")
    parser.add_argument("--json", action="store_true", help="as JSON: name -> environment, file or missing")


def run(args: argparse.Namespace) -> int:
    from msgspec import json

    from kit import say
    from kit.errors import UsageError
    from runner import job as jobs
    from runner import own_secrets

    names = _needed(jobs.load(args.job, args.override)) if args.job else sorted(own_secrets.read())
    _, sources = own_secrets.found(names)
    rows = {name: sources.get(name, "missing") for name in names}
    if args.json:
        say.answer(json.encode(rows).decode())
    else:
        for name, source in rows.items():
            say.answer(f"{name:<{max(map(len, rows))}}  {source}")
    say.say(
        f"the file: {own_secrets.file()}" + ("" if own_secrets.file().exists() else ", which is not there")
    )
    if missing := [name for name, source in rows.items() if source == "missing"]:
        raise UsageError(f"{args.job} needs {', '.join(missing)}", f"runner secrets set {missing[0]}")
    return 0


def _needed(job: Job) -> Sequence[str]:
    """Without those, it is not submitted."""
    after = (job.after.upload.token,) if job.after else ()
    return tuple(dict.fromkeys((*job.secrets, *after)))
