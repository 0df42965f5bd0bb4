"""Your runs that ended lately, the latest first, by their folders and Slurm's accounting.

Where there is no accounting the run folders and Slurm's queue tell. --since counts from now, to the second:
6h are six hours.
"""

from __future__ import annotations

import argparse

HELP = "runs that have ended"
STATES = ("failed", "completed", "cancelled")


def arguments(parser: argparse.ArgumentParser) -> None:
    for state in STATES:
        also = ", lost ones too" if state == "failed" else ""
        parser.add_argument(f"--{state}", action="store_true", help=f"only {state} runs{also}")
    parser.add_argument("--since", default="7d", help="how far back: 30m, 6h, 2d (default: 7d)")
    parser.add_argument(
        "--json", action="store_true", help="as JSON: times in UTC, jobs and attempts of each"
    )


def run(args: argparse.Namespace) -> int:
    from kit import exact, say
    from runner import moments, run_names, shown_runs, tables, watching

    seconds = moments.span(args.since, "--since")
    wanted = {state for state in STATES if getattr(args, state)}
    wanted |= {"lost"} if "failed" in wanted else set()
    runs = run_names.folder_of_runs()
    watch = watching.Watch()
    found = watch.history(run_names.every(runs), seconds)
    found = [each for each in found if not wanted or each.state in wanted]
    if args.json:
        say.answer(exact.encode([shown_runs.whole(each) for each in found]).decode())
    elif found:
        tables.show(shown_runs.PAST_HEADS, list(shown_runs.past_lines(found)), shown_runs.RIGHT)
    else:
        say.say(f"none in the last {args.since}")
    return 0
