"""Remove the logs of runs that ended long ago. How each went stays known, and so do artifacts and code.

With --all the whole run folders go. Checkpoints lie elsewhere and always stay. A run that has not ended, or
whose end nobody knows, is left alone.
"""

from __future__ import annotations

import argparse

HELP = "remove the logs of ended runs"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--older-than", required=True, metavar="SPAN", help="since their ends: 30d, 12h")
    parser.add_argument("--all", action="store_true", help="the whole run folders, artifacts too")
    parser.add_argument("--dry-run", action="store_true", help="only say what would go")
    parser.add_argument("--json", action="store_true", help="as JSON: each run with what goes, and its bytes")


def run(args: argparse.Namespace) -> int:
    from kit import exact, say
    from runner import cleaning, moments, run_names, tables, watching

    older = moments.span(args.older_than, "--older-than")
    folders = run_names.every(run_names.folder_of_runs())
    plan = cleaning.plan(folders, older, watching.Watch(), whole=args.all)
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
