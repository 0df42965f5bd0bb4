"""Cancel runs: the job that runs, those that would go on where it failed, and what comes after it.

Only runs that are named here; with --all every one of this kit that has not ended, and no other job of yours.
For more than one, and for --all, it asks; where nobody can be asked it needs --yes.
"""

from __future__ import annotations

import argparse

HELP = "end runs, with all that may follow them"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", nargs="*", metavar="RUN", help="see runner status")
    parser.add_argument("--all", action="store_true", help="every run of yours that has not ended; asks")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--json", action="store_true", help="what was done, as JSON")


def run(args: argparse.Namespace) -> int:
    from kit import exact, say
    from kit.errors import UsageError
    from runner import cancelling, run_names, watching

    if bool(args.run) == args.all:
        raise UsageError("expected runs, or --all", "runner cancel last")
    runs = run_names.folder_of_runs()
    watch = watching.Watch()
    if args.all:
        candidates = [each for each in run_names.every(runs) if not watching.settled(each, 0.0)]
        folders = [now.files.folder for now in watch.states(candidates) if not now.over]
    else:
        folders = run_names.found(args.run, runs)
    cancelling.demand_yes([each.root.name for each in folders], args.yes, least=1 if args.all else 2)
    folders = list({one.root: one for each in folders for one in cancelling.with_after(each)}.values())
    done = []
    for now in watch.states(folders):
        slurm = watch.slurm if now.jobs else None
        done.append(cancelling.cancel(now, slurm))
        if not args.json:
            say.answer(cancelling.told(done[-1]))
    if args.json:
        say.answer(exact.encode(done).decode())
    return 0
