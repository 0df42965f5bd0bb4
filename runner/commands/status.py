"""How your runs are, and the jobs that they are. RUN may be a folder's name or a beginning of it, its 8 hex
digits, a path, a Slurm job id, or `last`.

Without RUN: all that wait or run, those that ended within a day, and, in parentheses, your other jobs in
Slurm's queue. One RUN alone: all that is known of it. Where Slurm cannot be asked the run folder tells.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runner.run_states import Now

HELP = "how your runs are"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", nargs="*", metavar="RUN", help="only these (default: see above)")
    parser.add_argument("--all", action="store_true", help="also what ended long ago")
    parser.add_argument(
        "--tail",
        type=int,
        metavar="N",
        help="with each, the last N lines of its log and its newest checkpoint",
    )
    parser.add_argument(
        "--json", action="store_true", help="as JSON: times in UTC, jobs and attempts of each"
    )


def run(args: argparse.Namespace) -> int:
    import time

    from kit import exact, say
    from kit.errors import UsageError
    from runner import run_names, shown_files, shown_runs, tables, watching

    if args.tail is not None and (args.tail < 1 or args.json):
        raise UsageError("--tail takes a number of lines, and has no form in JSON", "runner status --tail 5")
    runs = run_names.folder_of_runs()
    watch = watching.Watch()
    old = 0
    if args.run:
        found, strangers = watch.states(run_names.found(args.run, runs)), []
    else:
        folders = run_names.every(runs)
        recent = [each for each in folders if args.all or not watching.settled(each, watching.DAY)]
        found = watch.states(recent)
        strangers = watch.others(found, runs)
        found = [each for each in found if args.all or not watching.long_over(each)]
        old = len(folders) - len(found)
    if args.json:
        told = [*map(shown_runs.whole, found), *map(shown_runs.stranger, strangers)]
        say.answer(exact.encode(told).decode())
    elif len(args.run) == 1:
        _one(found[0])
    else:
        rows = list(shown_runs.lines(found, strangers, time.time()))
        if rows:
            tables.show(shown_runs.HEADS, rows, shown_runs.RIGHT)
        elif not old:
            say.say(f"there is no run in {runs}: runner submit JOB.YAML")
        if old:
            say.say(f"{old} that ended more than a day ago: runner status --all, or runner history")
    if args.tail:
        for line in shown_files.ends(found, args.tail, checkpoints=len(args.run) != 1):
            say.answer(line)
    return 0


def _one(now: Now) -> None:
    import time

    from runner import shown_files, shown_runs, tables

    (title, rows), *more = shown_runs.sections(now, time.time())
    tables.show_sections([(title, [*rows, *shown_files.checkpoint(now.files.folder)]), *more])
