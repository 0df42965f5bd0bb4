"""Look at a list of base images: what is to be baked, what is there, what cannot be; and what it will cost.

LIST holds a reference a line (and, if wanted, names), or is JSON, JSON Lines or Parquet with `image` and
`name`. Datasets are read as they are published, in the same forms: R2E names its images, those of the others
are made of the instance's name. What is planned is added to what was planned before, for the same target and
platform.

Bases are asked for by HEAD, which no registry counts; where one announces a quota no manifest is fetched yet.
What is known is not asked again, unless with --refresh. Without a list it only tells, or refreshes, what is
known. The answer is a table.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from runner.commands.prebuild import _which

if TYPE_CHECKING:
    from image_cache.prebuild.journal import Header, Journal
    from image_cache.prebuild.lists import Kind
    from kit.nouns import Platform

HELP = "look at a list of base images, and tell what there is to do"
DATASETS = {"r2e": "R2E", "swe-gym": "SWE-Gym", "swebench": "SWE-bench"}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("list", nargs="*", type=Path, metavar="LIST", help="files with references")
    for name, title in DATASETS.items():
        parser.add_argument(
            f"--{name}",
            action="append",
            type=Path,
            default=[],
            metavar="FILE",
            help=f"a file of the {title} dataset; may be given several times",
        )
    parser.add_argument("--to", metavar="TARGET", help=_which.TO)
    parser.add_argument("--platform", help="linux/amd64 or linux/arm64 (default: this machine's)")
    _which.journal(parser)
    parser.add_argument(
        "--replace",
        action="store_true",
        help="leave alone from now on what was planned before and is not in these lists",
    )
    parser.add_argument(
        "--refresh",
        action="store_true",
        help="ask anew what each tag stands for, and whether what was baked is still there",
    )
    parser.add_argument(
        "--client-path",
        choices=["yes", "no"],
        help="bake /usr/local/bin/openhands-agent-server too (default: as before; at first yes)",
    )
    parser.add_argument(
        "--compression",
        choices=["gzip", "zstd"],
        help="of the layer in OCI images (default: as before; at first gzip)",
    )
    _which.pace(parser)
    parser.add_argument(
        "--dry-run", action="store_true", help="ask nobody, write nothing: tell what would be asked"
    )
    parser.add_argument("--json", action="store_true", help="the answer as JSON")


def run(args: argparse.Namespace) -> int:
    from kit.errors import UsageError
    from kit.say import say
    from runner import prebuilding, prebuilds

    platform = _platform(args)
    files = _files(args)
    folder, header = _prebuild(args, platform)
    fresh = not (folder / "journal.sqlite").exists()
    if fresh and not files:
        raise UsageError("there is nothing to plan: no list was given", "runner prebuild plan LIST --to …")
    with prebuilds.opened(
        None if args.dry_run and fresh else folder, header, write=not args.dry_run
    ) as journal:
        made = prebuilding.choices(journal, args.client_path and args.client_path == "yes", args.compression)
        layer = prebuilding.found_layer(journal.header.platform)
        what = prebuilding.added(layer, made) if layer else None
        address = what.address if what else None
        if args.dry_run:
            with journal.database.dropped():
                _listed(journal, args, files, address)
                say(f"would ask for {journal.waiting('look')} images")
                return _answer(args, journal, what, prebuilding.Places())
        prebuilding.keep_choices(journal, made)
        _listed(journal, args, files, address)
        places = prebuilding.Places()
        prebuilding.look(journal, places, what, jobs=args.jobs, every=args.every)
        code = _answer(args, journal, what, places)
        _check(journal)
        return code


def _check(journal: Journal) -> None:
    """A plan that learned nothing has failed; one that learned something tells what."""
    from image_cache.prebuild import report
    from kit.errors import NetworkError

    counts = journal.counts()
    if counts and set(counts) == {"unknown"}:
        first = next(report.failures(journal))
        raise NetworkError(
            f"nothing is known of {counts['unknown']} images: {first.error}", "runner prebuild plan"
        )


def _listed(
    journal: Journal, args: argparse.Namespace, files: list[tuple[Path, Kind]], address: str | None
) -> None:
    from kit.say import say
    from runner import prebuilding

    if files:
        count, new = journal.add(prebuilding.entries(files, journal.header.target), replace=args.replace)
        say(f"{count} entries, {new} images that were not known")
    journal.look_again(address, refresh=args.refresh)


def _platform(args: argparse.Namespace) -> Platform:
    from kit.nouns import Platform
    from kit.say import say

    if args.platform:
        return Platform.parse(args.platform)
    if args.to:
        say(f"for {Platform.host()}, which is this machine's platform (--platform says another)")
    return Platform.host()


def _files(args: argparse.Namespace) -> list[tuple[Path, Kind]]:
    from kit.errors import UsageError

    files: list[tuple[Path, Kind]] = [(path, "list") for path in args.list]
    for name in DATASETS:
        files += [(path, name) for path in getattr(args, name.replace("-", "_"))]  # type: ignore[misc]
    if args.replace and not files:
        raise UsageError("--replace needs a list", "runner prebuild plan LIST --replace")
    return files


def _prebuild(args: argparse.Namespace, platform: Platform) -> tuple[Path, Header | None]:
    from image_cache.prebuild.journal import Header
    from kit import settings
    from runner import bake_targets, prebuilds

    if args.to is None:
        return prebuilds.the_one(None, args.platform, args.journal), None
    to = bake_targets.target(args.to)
    if not args.journal:
        settings.writable("cache")
    return args.journal or prebuilds.folder(to, platform), Header(to, platform)


def _answer(args: argparse.Namespace, journal: Journal, what: object, places: object) -> int:
    from image_cache.prebuild import report
    from kit import say
    from runner import prebuilding, tables

    to_come = prebuilding.foreseen(journal, places, what)  # type: ignore[arg-type]
    if args.json:
        say.answer(prebuilding.as_json(journal, to_come, layer=what is not None))
        return 0
    tables.show(("STATE", "IMAGES", ""), report.table(journal), ("IMAGES",))
    if to_come.images:
        tables.show_sections([("to come", report.forecast_lines(to_come))])
        if what is None:
            say.say("the agent's layer is not made yet: what is baked already is not known as such")
            say.say("hint: runner prebuild layer")
    return 0
