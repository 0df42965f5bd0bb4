"""What a prebuild has still to do, counted in the journal. Nobody is asked; memory stays flat."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from image_cache import oci
from image_cache.oci import Descriptor
from image_cache.places.origin import Origin
from image_cache.prebuild import planning
from image_cache.prebuild.journal import Journal
from image_cache.prebuild.planning import Fetch, Forecast, Quota
from image_cache.prebuild.schema import Row

_TEMPORARY = """
DROP TABLE IF EXISTS temp.mounts;
DROP TABLE IF EXISTS temp.moves;
CREATE TEMP TABLE mounts (digest TEXT, repository TEXT, PRIMARY KEY (digest, repository)) WITHOUT ROWID;
CREATE TEMP TABLE moves (digest TEXT PRIMARY KEY, size INTEGER) WITHOUT ROWID
"""
_NOT_THERE = "NOT EXISTS (SELECT 1 FROM blobs WHERE digest=?1{})"


def forecast(
    journal: Journal, ours: Iterable[Descriptor], quota_of: Callable[[str], Quota | None]
) -> Forecast:
    """ours: the layers that are added to every image. quota_of: of a place, as far as it is known."""
    target = Origin.parse(journal.header.target).place
    images = unseen = 0
    fetches: dict[str, int] = {}
    added = tuple(ours)
    with journal.database.transaction():
        for statement in _TEMPORARY.strip().split(";\n"):
            journal.database.run(statement)
        for row in journal.rows("state IN ('to-bake', 'failed', 'new', 'unknown', 'unauthorised')"):
            images += 1
            documents = journal.kept(row.image)
            if documents is None:
                unseen += 1
                fetches[row.place] = fetches.get(row.place, 0) + 1
            layers = oci.manifest(documents[0], row.base).layers if documents else ()
            _count(journal, row, layers, near=row.place == target)
            _count(journal, row, added, near=False)
        mounts = journal.database.one("SELECT count(*) FROM temp.mounts")[0]
        moves, size = journal.database.one("SELECT count(*), coalesce(sum(size), 0) FROM temp.moves")
    waits = [Fetch(place=place, images=count, quota=quota_of(place)) for place, count in fetches.items()]
    return planning.forecast(
        images=images, unseen=unseen, mounts=mounts, moves=moves, bytes=size, fetches=waits
    )  # fmt: skip


def _count(journal: Journal, row: Row, layers: Iterable[Descriptor], near: bool) -> None:
    """near: they are in the target's registry already, and need be mounted only."""
    for layer in layers:
        journal.database.run(
            "INSERT OR IGNORE INTO temp.mounts SELECT ?1, ?2 WHERE "
            + _NOT_THERE.format(" AND repository=?2"),
            (layer.digest, row.repository),
        )
        if not near:
            journal.database.run(
                "INSERT OR IGNORE INTO temp.moves SELECT ?1, ?2 WHERE " + _NOT_THERE.format(""),
                (layer.digest, layer.size),
            )
