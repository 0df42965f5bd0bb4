"""The map that a training needs: from a base, or a dataset's name for it, to what was baked of it."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from typing import IO

from image_cache.prebuild.journal import Journal


def pairs(journal: Journal) -> Iterator[tuple[str, str]]:
    """Every name of every image that is there, and the reference by digest. A name that stands for several
    images comes several times."""
    for row, reference in journal.ready():
        yield row.base, reference
        for name in journal.names(row):
            yield name, reference


def ambiguous(journal: Journal) -> list[str]:
    """Names that several images have."""
    found = journal.database.all(
        "SELECT name FROM names JOIN images ON images.id=names.image WHERE listed AND state='ready'"
        " GROUP BY name HAVING count(DISTINCT baked || repository) > 1 ORDER BY 1"
    )
    return [name for (name,) in found]


def as_json(file: IO[str], journal: Journal) -> int:
    """One object, name -> reference; names of several images are left out. Returns how many images it has."""
    out, count = set(ambiguous(journal)), 0
    file.write("{")
    for name, reference in pairs(journal):
        if name not in out:
            file.write(("," if count else "") + f"\n  {json.dumps(name)}: {json.dumps(reference)}")
            count += 1
    file.write("\n}\n")
    return count


def as_csv(file: IO[str], journal: Journal) -> int:
    """A line for every name; `base_digest` is of the base's manifest for the platform."""
    lines, count = csv.writer(file, lineterminator="\n"), 0
    lines.writerow(("name", "base", "base_digest", "baked"))
    for row, reference in journal.ready():
        for name in (row.base, *journal.names(row)):
            lines.writerow((name, row.base, row.image, reference))
            count += 1
    return count
