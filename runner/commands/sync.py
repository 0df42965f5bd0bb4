"""Bring what runs logged to Weights & Biases without internet to its server: each offline run once.

They lie in the run folders, where nodes without internet write them. Without RUN: those of all runs. What an
attempt still writes waits for its end. May be interrupted, and typed again.
"""

from __future__ import annotations

import argparse

HELP = "bring offline runs of Weights & Biases to its server"
HEADS = ("RUN", "W&B", "STATE", "WHERE")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", nargs="*", metavar="RUN", help="see runner status (default: all)")
    parser.add_argument("--json", action="store_true", help="as JSON: what became of each offline run")


def run(args: argparse.Namespace) -> int:
    from kit import exact, say
    from runner import offline_runs, run_names, syncing, tables, watching

    runs = run_names.folder_of_runs()
    folders = run_names.found(args.run, runs) if args.run else run_names.every(runs)
    folders = [each for each in folders if offline_runs.found(each)]
    done = [one for now in watching.Watch().states(folders) for one in syncing.sync(now)]
    if args.json:
        say.answer(exact.encode(done).decode())
    elif done:
        tables.show(HEADS, [(each.run, each.wandb, each.state, each.url or "") for each in done])
    else:
        say.say("no offline runs of W&B: nodes without internet leave them in the run folder")
    if failed := syncing.failure(done):
        raise failed
    return 0
