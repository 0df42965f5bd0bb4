"""What a self-contained layer takes of the distribution's packages beside interpreter and libraries:
programs, their data, and the small scripts that tell one of the other.

Programs look for their parts at absolute paths of a distribution. A script of the layer that bears a
program's name says where they are instead, to that program alone.
"""

from __future__ import annotations

import csv
import os
import shutil
from pathlib import Path
from typing import Protocol

from containers import elf
from kit.errors import BuildError
from kit.nouns import LayerSpec

SITE = "python/site/"
"""Packages: a text below it belongs to one, in a folder of its own."""


class Place(Protocol):
    """What is asked of a layout."""

    spec: LayerSpec
    top: Path


def put(layout: Place, root: Path) -> None:
    """Puts the spec's files where they belong, and the folders of its texts: these come when the layer is
    completed, so that a change of theirs leaves its body alone. BuildError names what the packages lack."""
    tree = elf.Tree(root)
    for name, path in layout.spec.files.items():
        found = tree.real(path)
        if found is None:
            raise BuildError(f"nothing that layer {layout.spec.name} is made of holds {path}")
        target = layout.top / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if found.is_dir():
            shutil.copytree(found, target, symlinks=True)
            _settle(target, path, tree)
        else:
            _copy(found, target)
    for name in layout.spec.texts:
        if not name.startswith(SITE):
            (layout.top / name).parent.mkdir(parents=True, exist_ok=True)


def write(layout: Place) -> list[Path]:
    """Writes the spec's texts, a program where one begins with #!; returns those that are no packages."""
    beside = []
    for name, text in layout.spec.texts.items():
        target = layout.top / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text.replace("{folder}", layout.spec.folder))
        target.chmod(0o755 if text.startswith("#!") else 0o644)
        if not name.startswith(SITE):
            beside.append(target)
    return beside


def _copy(found: Path, target: Path) -> None:
    shutil.copyfile(found, target)
    target.chmod(0o755 if found.stat().st_mode & 0o100 else 0o644)


def _settle(folder: Path, path: str, tree: elf.Tree) -> None:
    """Links of a folder that lead out of it become what they mean, or go: they would name the base's."""
    for link in sorted(folder.rglob("*")):
        if not link.is_symlink():
            continue
        meant = tree.real(f"{path}/{link.relative_to(folder)}")
        if meant and _within(folder, link):
            continue
        link.unlink()
        if meant and meant.is_file():
            _copy(meant, link)


def _within(folder: Path, link: Path) -> bool:
    """Whether a link's very next step stays in the folder."""
    to = link.readlink()
    return not to.is_absolute() and Path(os.path.normpath(link.parent / to)).is_relative_to(folder)


def refuse_contested(site: Path) -> None:
    """BuildError where two packages were installed that have a path in common and differ there: which of the
    files stays is chance."""
    claims: dict[str, dict[str, str]] = {}
    for record in sorted(site.glob("*.dist-info/RECORD")):
        with record.open(newline="") as file:
            for path, promised, *_ in filter(None, csv.reader(file)):
                claims.setdefault(path, {})[record.parent.name.removesuffix(".dist-info")] = promised
    for path, claim in sorted(claims.items()):
        if len(set(claim.values())) > 1:
            raise BuildError(f"{' and '.join(sorted(claim))} each install another {path}")
