"""Bring the models and data sets of a job (`stage`) into the cluster's cache, as `runner submit` does.

To be typed on a login node, whose disk and internet are used. What is there is not asked for again; a
download that broke off goes on where it was. The answer is one line for each: where jobs find it, and where
it lies here.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runner.staging.bringing import Found

HELP = "bring a job's models and data sets into the cluster's cache"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("job", type=Path, help="the job file")
    parser.add_argument(
        "override",
        nargs="*",
        metavar="key=value",
        help="over the job file's: 'stage={models: [Qwen/Qwen3-8B]}'",
    )
    parser.add_argument("--cluster", help="see runner clusters (default: the setting, else the one here)")
    parser.add_argument("--dry-run", action="store_true", help="only ask the hub, and say what would come")
    parser.add_argument("--json", action="store_true", help="as JSON: each with commit, bytes and folders")


def run(args: argparse.Namespace) -> int:
    from kit import say, settings
    from kit.errors import UsageError
    from runner import job as jobs
    from runner import runs, site, submission
    from runner.staging import asked, bringing, submitting

    here = site.chosen({"cluster": args.cluster})
    job = jobs.load(args.job, args.override)
    wanted = list(asked.items(job.stage))
    if not wanted:
        raise UsageError(f"{args.job} names nothing to stage", "stage: {models: [Qwen/Qwen3-8B]}")
    settings.writable("cache")
    folder = runs.named(Path(here.settings.runs).expanduser().absolute(), job.name)
    at = submission.places(job, folder, here.settings.cache_folder, here.scratch)
    home = submitting.home(job, submission.launch(job, here.cluster, folder.run_id), at.scratch)
    token = bringing.token()
    found = bringing.look(wanted, home, token)
    if args.dry_run:
        for each in found:
            left = bringing.left([each])
            say.say(
                f"{each.place.item.told}: {each.size / 1e9:.2f} GB, of which {left / 1e9:.2f} GB would come"
            )
    else:
        found = bringing.bring(found, home, token)
    _answer(found, args.json)
    return 0


def _answer(found: list[Found], as_json: bool) -> None:
    from msgspec import json

    from kit import say
    from runner.staging import asked

    rows = []
    for each in found:
        item = each.place.item
        folder = each.place.tasks(each.commit) if item.tasks else each.place.snapshot(each.commit)
        rows.append({
            "kind": item.kind, "id": item.id, "revision": item.revision, "commit": each.commit,
            "bytes": each.size, "inside": f"{asked.INSIDE}/{item.name}",
            "folder": str(each.place.home / folder),
        })  # fmt: skip
    if as_json:
        say.answer(json.encode(rows).decode())
        return
    for row in rows:
        say.answer(f"{row['inside']}  {row['folder']}")
