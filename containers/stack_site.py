"""The environment that packages were installed into, made that of the image: /opt/stack and its Python.

Only what an installer wrote for this one environment is changed (records, links, settings). Files of packages
have a second name in the installer's cache: they may be renamed or removed here, never written to.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import shutil
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from kit.errors import BuildError
from kit.nouns import StackLayer


class Package(Struct, frozen=True, order=True):
    """An installed package: its name as it is locked, and the rows of its record that others have, too."""

    name: str
    rows: tuple[tuple[str, str], ...] = ()  # path relative to the site folder, "sha256=…"


def site(stage: Path, python: str | None = None) -> Path:
    """The site folder; before `settle` that of our own Python's version."""
    if python:
        return stage / f"lib/python{python}/site-packages"
    return next(stage.glob("lib/python3*/site-packages"))


def bare(stage: Path) -> None:
    """Removes what an empty environment holds beside the interpreter's links and its settings."""
    folder = site(stage)
    shutil.rmtree(folder)
    folder.mkdir()
    for path in (stage / "bin").iterdir():
        if not path.is_symlink():
            path.unlink()


def contested(stage: Path) -> list[Package]:
    """The packages that have a path in common, by name, with those rows where their files differ."""
    claims: dict[str, dict[str, str]] = defaultdict(dict)
    for record, rows in _records(stage):
        for path, promised, *_ in rows:
            claims[path][_name(record)] = promised
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for path, claim in claims.items():
        if len(set(claim.values())) > 1:
            last = max(claim)  # by name: an order that no machine and no run changes
            found[last].append((path, claim[last]))
    return [Package(name, tuple(sorted(rows))) for name, rows in sorted(found.items())]


def as_recorded(stage: Path, package: Package) -> bool:
    """Whether the package's own files lie at the paths that others claim, too."""
    return all(
        (path := site(stage) / name).is_file() and promised in ("", _hash(path))
        for name, promised in package.rows
    )


def settle(stage: Path, spec: StackLayer) -> None:
    """Makes an environment of the image's Python of one of ours, without what only the installer needs."""
    ours, theirs = site(stage).parent.name, f"python{spec.python}"
    _amend_records(stage, ours, theirs)
    for above in (stage / "lib", stage / "include/site"):
        if ours != theirs and (above / ours).is_dir():
            (above / ours).rename(above / theirs)
    for name in ("bin/python", "bin/python3", f"bin/{ours}", f"bin/{theirs}", "lib64", "pyvenv.cfg",
                 ".lock", ".gitignore", "CACHEDIR.TAG"):  # fmt: skip
        (stage / name).unlink(missing_ok=True)
    for name in ("bin", "include/site", "include"):
        if (stage / name).is_dir() and not any((stage / name).iterdir()):
            (stage / name).rmdir()


def _amend_records(stage: Path, ours: str, theirs: str) -> None:
    """Headers lie in a folder with Python's version in its name. And no record tells when uv saw a wheel."""
    old, new = f"../../../include/site/{ours}/", f"../../../include/site/{theirs}/"
    for record, rows in _records(stage):
        seen = record.with_name("uv_cache.json")
        seen.unlink(missing_ok=True)
        left = [row for row in rows if row[0] != f"{seen.parent.name}/{seen.name}"]
        moved = [
            [row[0].replace(old, new, 1) if row[0].startswith(old) else row[0], *row[1:]] for row in left
        ]
        if moved != rows:
            text = io.StringIO()
            csv.writer(text, lineterminator="\n").writerows(moved)
            record.unlink()
            record.write_text(text.getvalue(), newline="")


def environment(stage: Path, spec: StackLayer) -> None:
    """What makes a folder an environment: the interpreter's link, its settings; and the stack's lock."""
    for folder in (stage / "bin", site(stage, spec.python)):
        folder.mkdir(parents=True)
    (stage / "bin/python").symlink_to(spec.interpreter)
    (stage / "bin/python3").symlink_to("python")
    (stage / f"bin/python{spec.python}").symlink_to("python")
    (stage / "lib64").symlink_to("lib")
    (stage / "pyvenv.cfg").write_text(
        f"home = {Path(spec.interpreter).parent}\n"
        "implementation = CPython\n"
        f"version_info = {spec.python}\n"
        "include-system-site-packages = false\n"
        "relocatable = true\n"
    )
    (stage / "stack.lock").write_text(spec.group.whole or "")


def _records(stage: Path) -> Iterator[tuple[Path, list[list[str]]]]:
    for record in sorted(site(stage).glob("*.dist-info/RECORD")):
        with record.open(newline="") as file:
            rows = [row for row in csv.reader(file) if row]
        if any(len(row) != 3 for row in rows):
            raise BuildError(f"{record.parent.name} has a broken RECORD: expected three fields in each row")
        yield record, rows


def _name(record: Path) -> str:
    return record.parent.name.removesuffix(".dist-info").rpartition("-")[0].replace("_", "-").lower()


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        raw = hashlib.file_digest(file, "sha256").digest()
    return "sha256=" + base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
