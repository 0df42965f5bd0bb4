"""How far a prebuild is: images by state, and by what went wrong. Also while it runs.

--failed lists every image with something wrong, with the error that it met last.
"""

from __future__ import annotations

import argparse

from runner.commands.prebuild import _which

HELP = "tell how far a prebuild is"


def arguments(parser: argparse.ArgumentParser) -> None:
    _which.which(parser)
    parser.add_argument("--failed", action="store_true", help="list the images with something wrong")
    parser.add_argument("--json", action="store_true", help="the answer as JSON")


def run(args: argparse.Namespace) -> int:
    from msgspec import json

    from image_cache.prebuild import report, turn
    from kit import say
    from runner import prebuilds, tables

    folder = prebuilds.the_one(args.to, args.platform, args.journal)
    with prebuilds.opened(folder) as journal:
        failures = [report.failure(row) for row in report.failures(journal)] if args.failed else None
        holder = turn.holder(folder)
        if args.json:
            at_work = {"host": holder.host, "pid": holder.pid, "heartbeat": holder.beat} if holder else None
            told = {**report.summary(journal), "at_work": at_work}
            if failures is not None:
                told["failures"] = failures
            say.answer(json.format(json.encode(told)).decode())
            return 0
        if failures is not None:
            heads = ("IMAGE", "STATE", "ERROR", "TRIED", "")
            tables.show(heads, [_cells(each) for each in failures], ("TRIED",))
            return 0
        say.say(f"{journal.header.target} for {journal.header.platform}, in {folder}")
        if holder:
            say.say(f"process {holder.pid} on {holder.host} is at it")
        tables.show(("STATE", "IMAGES", ""), report.table(journal), ("IMAGES",))
        if errors := report.error_rows(journal):
            tables.show(("ERROR", "IMAGES"), errors, ("IMAGES",))
    return 0


def _cells(failure: dict[str, object]) -> tuple[str, ...]:
    return tuple(str(failure[name] or "") for name in ("base", "state", "error_class", "attempts", "error"))
