"""Print all that is known of an image: what it is made of, its proof, its SIF, its bill of materials.

What nobody wrote down is told as `not recorded`; what is damaged, in a section of its own.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runner.known import Known

HELP = "print all that is known of an image"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", help="its name, key or digest, or the beginning of one; or a .sif file")
    parser.add_argument("--format", choices=("oci", "sif"), help="which, where there are both of one name")
    parser.add_argument("--json", action="store_true", help="the whole record as JSON")
    parser.add_argument("--sbom", action="store_true", help="the bill of materials: CycloneDX, as JSON")
    parser.add_argument("--labels", action="store_true", help="the labels alone, one name=value a line")


def run(args: argparse.Namespace) -> int:
    from kit import say
    from runner import images, known, shown, tables

    store = images.store()
    if args.image.endswith(".sif"):
        found = known.of_file(args.image)
    else:
        found = known.of(store, images.named(args.image, args.format))
    if args.sbom:
        say.answer(_bill(found))
    elif args.labels:
        for name, value in sorted(found.image.labels.items()):
            say.answer(f"{name}={value}")
    elif args.json:
        say.answer(shown.whole(found))
    else:
        tables.show_sections(shown.sections(found), shown.style)
    return 0


def _bill(found: Known) -> str:
    from kit.errors import NotFoundError

    if found.bill is None:
        told = next((each for each in found.wrong if "bill" in each), "none was recorded")
        raise NotFoundError(f"no bill of materials of {found.record.name}: {told}")
    return found.bill.decode().rstrip()
