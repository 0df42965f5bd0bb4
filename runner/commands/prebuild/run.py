"""Bake what was planned. Goes on wherever an earlier run was stopped or killed; a second run does nothing.

What fails for a reason that may pass is tried again, with growing pauses; where a registry's quota is used
up, its images wait for as long as it says. Ctrl-C and TERM let what is under way end, and end in order. The
answer is a table; beside the journal are report.json and report.md. Exit code 43: some images could not be
made.

With --mirror bases are copied into the target as they are, each under the tag `base-DIGEST`, and nothing is
baked: later runs need their registry no more.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from runner.commands import _numbers
from runner.commands.prebuild import _which

if TYPE_CHECKING:
    from image_cache.bake import Added
    from image_cache.prebuild.journal import Journal
    from image_cache.prebuild.report import Session

HELP = "bake what was planned, or go on with it"


def arguments(parser: argparse.ArgumentParser) -> None:
    _which.which(parser)
    _which.pace(parser)
    parser.add_argument("--limit", type=_numbers.count, metavar="N", help="only so many images in this run")
    parser.add_argument(
        "--mirror", action="store_true", help="copy the bases into the target, and bake nothing"
    )
    parser.add_argument(
        "--no-wait", action="store_true", help="do not wait for a quota: leave its images for later"
    )
    parser.add_argument("--dry-run", action="store_true", help="tell what is to come, and do nothing")
    parser.add_argument("--json", action="store_true", help="the answer as JSON")


def run(args: argparse.Namespace) -> int:
    from runner import prebuilding, prebuilds

    folder = prebuilds.the_one(args.to, args.platform, args.journal)
    with prebuilds.opened(folder, write=not args.dry_run) as journal:
        made = prebuilding.choices(journal, None, None)
        platform, places = journal.header.platform, prebuilding.Places()
        if args.dry_run:
            layer = prebuilding.found_layer(platform)
            return _foreseen(args, journal, places, prebuilding.added(layer, made) if layer else None)
        what = None if args.mirror else prebuilding.added(prebuilding.made_layer(platform), made)
        session = prebuilding.make(
            journal, places, what, jobs=args.jobs, every=args.every, limit=args.limit, wait=not args.no_wait
        )
        return _answer(args, journal, session)


def _foreseen(args: argparse.Namespace, journal: Journal, places: object, what: Added | None) -> int:
    from image_cache.prebuild import report
    from kit import say
    from runner import prebuilding, tables

    with journal.database.dropped():
        journal.settle(what.address if what else None)
        to_come = prebuilding.foreseen(journal, places, what)  # type: ignore[arg-type]
    if args.json:
        say.answer(prebuilding.as_json(journal, to_come, layer=what is not None))
    else:
        say.answer(
            f"would {'copy' if args.mirror else 'bake'} {to_come.images} images into {journal.header.target}"
        )
        if to_come.images:
            tables.show_sections([("to come", report.forecast_lines(to_come))])
    return 0


def _answer(args: argparse.Namespace, journal: Journal, session: Session) -> int:
    from msgspec import json

    from image_cache.prebuild import report
    from kit import say
    from kit.errors import PrebuildError
    from runner import tables

    if args.json:
        told = {**report.summary(journal), "run": session}
        say.answer(json.format(json.encode(told)).decode())
    else:
        tables.show(("STATE", "IMAGES", ""), report.table(journal), ("IMAGES",))
        if errors := report.error_rows(journal):
            tables.show(("ERROR", "IMAGES"), errors, ("IMAGES",))
    if lost := report.lost(journal):
        total = sum(journal.counts().values())
        kinds = ", ".join(f"{count} {kind}" for kind, count in report.error_rows(journal))
        raise PrebuildError(
            f"{lost} of {total} images could not be made: {kinds}", "runner prebuild status --failed"
        )
    return 0
