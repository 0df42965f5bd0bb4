"""Cancel runs: the job that runs, and those that would go on where it failed. Only runs that are named here.

For more than one it asks; where nobody can be asked it needs --yes.
"""

from __future__ import annotations

import argparse

HELP = "end runs, with all that may follow them"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", nargs="+", metavar="RUN", help="see runner status")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--json", action="store_true", help="what was done, as JSON")


def run(args: argparse.Namespace) -> int:
    from kit import exact, say
    from runner import cancelling, run_names, watching

    folders = run_names.found(args.run, run_names.folder_of_runs())
    cancelling.demand_yes([each.root.name for each in folders], args.yes)
    folders = list({one.root: one for each in folders for one in cancelling.with_after(each)}.values())
    watch = watching.Watch()
    done = []
    for now in watch.states(folders):
        slurm = watch.slurm if now.jobs else None
        done.append(cancelling.cancel(now, slurm))
        if not args.json:
            say.answer(cancelling.told(done[-1]))
    if args.json:
        say.answer(exact.encode(done).decode())
    return 0
