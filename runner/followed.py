"""A run that its submitter watches to the end: its log as it grows, its offline W&B runs to their server."""

from __future__ import annotations

import sys

from kit import say
from kit.errors import LaunchError, SlipworksError
from runner import following, offline_runs, syncing, watching
from runner.runs import RunFolder


def follow(folder: RunFolder) -> int:
    """Until the run has ended; returns its command's exit code. LaunchError for one that has none.

    What W&B wrote offline is synced after each attempt. Where that fails it is told; the code is the run's.
    """
    say.say(f"following {folder.root.name}; Ctrl-C ends this, not the run: runner logs -f {folder.run_id}")
    watch = watching.Watch()
    follow = following.Follow(
        folder, "0", lambda: watch.anew(folder), sys.stderr.buffer, between=lambda: bring(folder, watch)
    )
    follow.run()
    bring(folder, watch)
    now = watch.anew(folder)
    told = f"{now.state}: {now.why}" if now.why else now.state
    if now.state not in ("completed", "failed") or now.code is None:
        raise LaunchError(f"{folder.root.name} is {told}", f"runner status {folder.run_id}")
    say.say(f"{folder.root.name} is {told}")
    return now.code


def bring(folder: RunFolder, watch: watching.Watch) -> None:
    """Syncs what there is; tells what could not be."""
    if not offline_runs.found(folder):
        return
    try:
        done = syncing.sync(watch.anew(folder))
        if failed := syncing.failure(done):
            raise failed
    except SlipworksError as failed:
        say.say(f"warning: {failed.message}: runner sync {folder.run_id}")
        return
    for each in done:
        if each.state in ("synced", "cut off"):
            say.say(f"W&B has {each.wandb}" + (f": {each.url}" if each.url else ""))
