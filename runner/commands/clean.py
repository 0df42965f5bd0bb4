"""Remove the logs of runs that ended long ago, or that are named. How each went stays known, and so do
artifacts and code.

With --all the whole run folders go. Checkpoints lie elsewhere and always stay. A run that has not ended, or
whose end nobody knows, is left alone; with --all so is one whose upload (`after`) has not ended.
"""

from __future__ import annotations

import argparse

HELP = "remove the logs of ended runs"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", nargs="*", metavar="RUN", help="these (see runner status)")
    parser.add_argument("--older-than", metavar="SPAN", help="those that ended so long ago: 30d, 12h")
    parser.add_argument("--before", metavar="RUN", help="those that were submitted before this one")
    parser.add_argument("--all", action="store_true", help="the whole run folders, artifacts too")
    parser.add_argument("--dry-run", action="store_true", help="only say what would go")
    parser.add_argument("--json", action="store_true", help="as JSON: each run with what goes, and its bytes")


def run(args: argparse.Namespace) -> int:
    from kit import exact, say
    from kit.errors import UsageError
    from runner import cleaning, moments, run_names, tables, watching

    if sum(map(bool, (args.run, args.older_than, args.before))) != 1:
        raise UsageError("expected one of: runs, --older-than, --before", "runner clean --older-than 30d")
    older = moments.span(args.older_than, "--older-than") if args.older_than else 0.0
    runs = run_names.folder_of_runs()
    folders = run_names.found(args.run, runs) if args.run else run_names.every(runs)
    if args.before:
        folders = run_names.before(run_names.find(args.before, runs), folders)
    watch = watching.Watch()
    plan = cleaning.plan(folders, older, watch, whole=args.all)
    gone = {each.run for each in plan}
    for folder in folders if args.run else ():
        if folder.root.name not in gone:
            why = cleaning.awaited(folder, watch) if args.all else None
            say.once(
                f"{folder.root.name} is left as it is: {why or 'it has not ended, or has nothing to remove'}"
            )
    if not args.dry_run:
        for each in plan:
            cleaning.remove(each)
    if args.json:
        say.answer(exact.encode([cleaning.told(each) for each in plan]).decode())
        return 0
    if plan:
        tables.show(cleaning.HEADS, [cleaning.line(each) for each in plan], ("FILES", "SIZE"))
    freed = sum(each.size for each in plan) / 1e6
    say.answer(f"{'would free' if args.dry_run else 'freed'} {freed:.1f} MB")
    return 0
