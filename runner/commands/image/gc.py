"""Free space: remove what nothing pinned or recently used needs.

Images, layers and SIFs that were not asked for within the days that are kept, blobs and notes that none of
the others needs, and what killed processes left unfinished. Safe while images are built, here or on other
hosts: what is younger than an hour stays, and while somebody builds, what is younger than a day; if that is
all that holds it, stderr says until when. A SIF that a job has open goes too if it is old enough: pin it, or
keep more days than your jobs wait and run. So do layers that were unpacked or squashed to be mounted, and
archives written for docker. Of the wheelhouse only unfinished files go.
"""

from __future__ import annotations

import argparse

HELP = "free space: remove what nothing pinned or recent needs"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="say what would go, and remove nothing")
    parser.add_argument(
        "--keep-days", metavar="N", type=_days, default=14.0,
        help="keep what was used or made within N days (default: 14)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="every file as JSON")


def run(args: argparse.Namespace) -> int:
    from runner import images, shelf

    shelf.clean(images.store(), args.keep_days, dry=args.dry_run, as_json=args.json)
    return 0


def _days(text: str) -> float:
    days = float(text)
    if not 0 <= days < 1e6:
        raise argparse.ArgumentTypeError(f"found {text}, expected a number of days from 0 up")
    return days
