"""Write which image was baked of which base: for the configuration of a training.

As JSON one object: every base, every spelling of it in the lists, and every name of an instance, with its
image by digest. As CSV a line for each of these: name, base, the base's digest, image. Only images that are
there are in it; the others are counted on stderr.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from runner.commands.prebuild import _which

HELP = "write the map from bases and instances to baked images"


def arguments(parser: argparse.ArgumentParser) -> None:
    _which.which(parser)
    parser.add_argument("--format", choices=["json", "csv"],
                        help="default: by the file's name, else json")  # fmt: skip
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: stdout")


def run(args: argparse.Namespace) -> int:
    import sys

    from image_cache.prebuild import exporting
    from kit import files, say
    from runner import prebuilds

    csv = (args.format or (args.output.suffix[1:] if args.output else "")) == "csv"
    fill = exporting.as_csv if csv else exporting.as_json
    with prebuilds.opened(prebuilds.the_one(args.to, args.platform, args.journal)) as journal:
        if not args.output:
            fill(sys.stdout, journal)
        else:
            with files.beside(args.output) as temporary:
                with files.space_named(args.output), temporary.open("w") as file:
                    fill(file, journal)
                files.settle(temporary, args.output)
        counts = journal.counts()
        if absent := sum(counts.values()) - counts.get("ready", 0):
            say.say(f"{absent} images are not there, and not in it")
        if not csv and (double := exporting.ambiguous(journal)):
            say.say(f"left out, as several images have these names: {', '.join(double[:5])}"
                    + (f" and {len(double) - 5} more" if len(double) > 5 else ""))  # fmt: skip
    return 0
