"""Make the SIF of an image in the store, for any platform: nothing of it is run. Needs apptainer.

The answer is the SIF's path: in the store, or OUT, where its record is put beside it too.
"""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "make the SIF of an image"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", help="its name, key or digest, or the beginning of one")
    parser.add_argument("out", metavar="OUT", nargs="?", help="also copy it there: a file or a folder")


def run(args: argparse.Namespace) -> int:
    from kit import say
    from kit.errors import VerifyError
    from runner import building, images

    store, image = images.store(), images.named(args.image, "oci")
    if store.find(image.key, "oci") is None:
        raise VerifyError(f"{image.name} is damaged", f"runner image check {image.name}")
    made = building.converted(image, store)
    say.answer(str(_copied(made.path, Path(args.out)) if args.out else made.path))
    return 0


def _copied(sif: Path, out: Path) -> Path:
    """Atomic, each file. What lies beside the SIF under its name comes along."""
    import shutil

    from kit import files

    out = out / sif.name if out.is_dir() else out
    beside = sorted(each for each in sif.parent.iterdir() if each.name.startswith(f"{sif.name}."))
    for file in (*beside, sif):
        to = out.with_name(out.name + file.name.removeprefix(sif.name))
        with files.beside(to) as temporary, files.space_named(to):
            shutil.copyfile(file, temporary)
            files.settle(temporary, to)
    return out
