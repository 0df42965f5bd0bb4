"""What is known of every image of a prebuild, kept so that kill -9 at any moment loses and doubles nothing.

A prebuild is one target and one platform, in one folder. Who writes holds the folder's claim: one process of
one host; another is refused with the holder's name. Readers of the same host may come at any time.

An image that a process was about to make is marked as begun first; the mark goes with the commit that says
what came of it. So after a kill everything is either as before, or begun: then the target is asked before
anything is done again.
"""

from __future__ import annotations

import contextlib
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct

from image_cache.places.origin import Origin
from image_cache.prebuild.database import Database
from image_cache.prebuild.lists import Entry
from image_cache.prebuild.schema import FIELDS, IS_OPEN, SCHEMA, STATES, VERSION, ErrorClass, Row, State
from kit.errors import InvalidFileError
from kit.nouns import Platform

PAGE = 200
NEVER = 9e9  # due then: not in this run
Work = Literal["look", "bake", "mirror"]
"""Images that are to be looked at, to be baked, or to be copied."""
_WHICH: dict[Work, str] = {
    "look": "look",
    "bake": IS_OPEN,
    "mirror": f"{IS_OPEN} AND (mirrored IS NULL OR mirrored IS NOT image)",
}
__all__ = ["NEVER", "ErrorClass", "Header", "Journal", "Row", "State", "Work"]


class Header(Struct, frozen=True):
    """What a prebuild is for."""

    target: str
    platform: Platform


class Journal:
    """The journal in `folder`; None: one in memory. header: of a new one, and checked against that of an old
    one; None: the folder must hold one. Threads may share it."""

    def __init__(self, folder: Path | None, header: Header | None = None) -> None:
        self.folder = folder
        path = folder / "journal.sqlite" if folder else None
        if path and header is None and not path.exists():
            raise InvalidFileError(f"{folder} holds no prebuild", "runner prebuild plan LIST --to …")
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
        self.database = Database(path, SCHEMA, VERSION)
        try:
            self.header = self._headed(header)
        except BaseException:
            self.close()
            raise

    def _headed(self, given: Header | None) -> Header:
        found: dict[str, str] = dict(self.database.all("SELECT name, value FROM meta"))
        if "target" in found:
            there = Header(found["target"], Platform.parse(found["platform"]))
            if given and given != there:
                raise InvalidFileError(
                    f"the journal in {self.folder} is of {there.target} for {there.platform}: "
                    f"asked for {given.target} for {given.platform}",
                    "give another folder with --journal",
                )
            return there
        if given is None:
            raise InvalidFileError(f"the journal in {self.folder} was never planned")
        with self.database.transaction():
            self.note("target", given.target)
            self.note("platform", str(given.platform))
        return given

    def close(self) -> None:
        self.database.close()

    def note(self, name: str, value: str) -> None:
        self.database.run("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))

    @contextlib.contextmanager
    def settling(self, close: Callable[[], None]) -> Iterator[None]:
        """Around work whose results are in their place only after `close`, as those in an archive are."""
        late = Origin.parse(self.header.target).kind == "oci-archive"
        if late:
            self.note("unsettled", "yes")
        yield
        close()
        if late:
            self.note("unsettled", "")

    def noted(self, name: str) -> str | None:
        found = self.database.one("SELECT value FROM meta WHERE name=?", (name,))
        return found[0] if found else None

    # -- what is wanted --------------------------------------------------------------------------------------

    def add(self, entries: Iterable[tuple[Entry, str, str]], *, replace: bool = False) -> tuple[int, int]:
        """Entries, each with its place and its repository in the target. How many there were, and how many
        images are new. All or nothing: when reading breaks off, nothing was added.

        replace: what is not among them is left alone from now on, but stays known.
        """
        before, count = self.total(), 0
        with self.database.transaction():
            if replace:
                self.database.run("UPDATE images SET listed=0")
            rest = iter(entries)
            while page := list(islice(rest, PAGE)):
                count += len(page)
                self.database.run_many(
                    "INSERT INTO images (base, place, repository) VALUES (?, ?, ?)"
                    " ON CONFLICT (base) DO UPDATE SET listed=1 WHERE NOT listed",
                    ((entry.base, place, repository) for entry, place, repository in page),
                )
                self.database.run_many(
                    "INSERT OR IGNORE INTO names SELECT id, ? FROM images WHERE base=?",
                    ((name, entry.base) for entry, _, _ in page for name in entry.names),
                )
            return count, self.total() - before

    def look_again(self, address: str | None, *, refresh: bool) -> None:
        """What a plan has to ask about: what is not known. refresh: all whose name may have moved, and
        whether what was made is still there. address: of what a bake would do now; images of another one
        are to be baked, which needs no question."""
        with self.database.transaction():
            which = "1" if refresh else "state IN ('new', 'unknown', 'unauthorised')"
            self.database.run(f"UPDATE images SET look=1 WHERE listed AND {which}")
            self.settle(address)

    def settle(self, address: str | None) -> None:
        """Images of another bake than that of `address` are not ready."""
        if address:
            self.database.run(
                "UPDATE images SET state='to-bake', baked=NULL WHERE state='ready' AND address IS NOT ?",
                (address,),
            )

    # -- looking into it -------------------------------------------------------------------------------------

    def total(self) -> int:
        return int(self.database.one("SELECT count(*) FROM images")[0])

    def counts(self) -> dict[State, int]:
        """How many of the wanted images are in each state; states of none are left out."""
        found: dict[State, int] = dict(
            self.database.all("SELECT state, count(*) FROM images WHERE listed GROUP BY state")
        )
        return {state: found[state] for state in STATES if state in found}

    def error_counts(self) -> dict[ErrorClass, int]:
        return dict(
            self.database.all(
                "SELECT error_class, count(*) FROM images WHERE listed AND error_class IS NOT NULL"
                " GROUP BY error_class ORDER BY 2 DESC"
            )
        )

    def rows(self, where: str = "1", values: Iterable[Any] = ()) -> Iterator[Row]:
        """The wanted images for which `where` holds, by id, a page at a time: they may change meanwhile."""
        last = 0
        while page := self.database.all(
            f"SELECT {FIELDS} FROM images WHERE listed AND id > ? AND ({where}) ORDER BY id LIMIT {PAGE}",
            (last, *values),
        ):
            for each in page:
                yield Row(*each)
            last = page[-1][0]

    def names(self, row: Row) -> tuple[str, ...]:
        """What else an image is called."""
        return tuple(
            each
            for (each,) in self.database.all("SELECT name FROM names WHERE image=? ORDER BY 1", (row.id,))
        )

    def ready(self) -> Iterator[tuple[Row, str]]:
        """The images that are done, each with its reference by digest. InvalidFileError while they may not be
        where that says: an archive is written when a run ends."""
        if self.noted("unsettled"):
            raise InvalidFileError(
                f"{self.header.target} is not written yet: a run is at it, or was broken off",
                "runner prebuild run",
            )
        for row in self.rows("state='ready' AND baked IS NOT NULL"):
            yield row, self.reference(row)

    def reference(self, row: Row) -> str:
        """Of an image that is done: what starts it, or what it is called in a layout or an archive."""
        target = self.header.target
        if Origin.parse(target).kind != "registry":
            return f"{target}:{row.repository}:{row.tag}@{row.baked}"
        return f"{target.partition('/')[0]}/{row.repository}@{row.baked}"

    def waiting(self, what: Work) -> int:
        """How many images there are to do."""
        return int(self.database.one(f"SELECT count(*) FROM images WHERE listed AND {_WHICH[what]}")[0])

    def wants(self, what: Work, row: Row) -> bool:
        """Whether an image is still to do."""
        return bool(
            self.database.one(f"SELECT 1 FROM images WHERE id=? AND listed AND {_WHICH[what]}", (row.id,))
        )

    # -- work ------------------------------------------------------------------------------------------------

    def next(self, what: Work, now: float, most: int, without: Sequence[str] = ()) -> list[Row]:
        """Images that are due, the longest known first; none of the places in `without`."""
        marks = ", ".join("?" * len(without))
        found = self.database.all(
            f"SELECT {FIELDS} FROM images WHERE listed AND {_WHICH[what]} AND due <= ?"
            f" AND place NOT IN ({marks}) ORDER BY id LIMIT ?",
            (now, *without, most),
        )
        return [Row(*each) for each in found]

    def next_due(self, what: Work) -> float | None:
        """When the first of them is due; None when none is any more in this run."""
        which = _WHICH[what]
        found = self.database.one(f"SELECT min(due) FROM images WHERE listed AND {which} AND due < {NEVER}")
        return None if found[0] is None else float(found[0])

    def afresh(self, what: Work, limit: int | None = None) -> int:
        """A new run: every image may be tried as often as in any. limit: only so many of them in this run.
        Returns how many there are."""
        with self.database.transaction():
            self.database.run("UPDATE images SET tries=0, due=0 WHERE tries > 0 OR due > 0")
            if limit is not None:
                some = f"SELECT id FROM images WHERE listed AND {_WHICH[what]} ORDER BY id"
                self.database.run(
                    f"UPDATE images SET due=? WHERE listed AND {_WHICH[what]} AND id NOT IN ({some} LIMIT ?)",
                    (NEVER, limit),
                )
            return int(
                self.database.one(
                    f"SELECT count(*) FROM images WHERE listed AND {_WHICH[what]} AND due < ?", (NEVER,)
                )[0]
            )

    def change(self, row: Row, **columns: Any) -> None:
        """Sets columns of an image, in one commit."""
        names = ", ".join(f"{name}=?" for name in columns)
        self.database.run(f"UPDATE images SET {names} WHERE id=?", (*columns.values(), row.id))

    def begin(self, row: Row) -> None:
        """Marks an image as about to be made."""
        self.database.run(
            "UPDATE images SET begun=?, ended=NULL, attempts=attempts+1, tries=tries+1 WHERE id=?",
            (time.time(), row.id),
        )

    def put_off(self, place: str | None, due: float) -> None:
        """Nothing of a place is due before then: it told us to come back later. None: nothing at all, as the
        target told us so."""
        which, values = ("place=? AND", (place,)) if place is not None else ("", ())
        self.database.run(f"UPDATE images SET due=? WHERE {which} due < ?", (due, *values, due))

    # -- documents -------------------------------------------------------------------------------------------

    def keep(self, image: str, manifest: bytes, config: bytes) -> None:
        """Keeps what was fetched of a base, so that it need never be fetched again."""
        self.database.run(
            "INSERT OR IGNORE INTO documents VALUES (?, ?, ?)",
            (image, zlib.compress(manifest), zlib.compress(config)),
        )

    def kept(self, image: str | None) -> tuple[bytes, bytes] | None:
        """Manifest and config of a base."""
        found = self.database.one("SELECT manifest, config FROM documents WHERE image=?", (image,))
        return (zlib.decompress(found[0]), zlib.decompress(found[1])) if found else None

    def tidy(self, near: str) -> None:
        """Lets go of documents that nobody needs: of images that are done, or known no more. Those from other
        places than `near` stay, as to fetch them again may count against a quota."""
        self.database.run(
            "DELETE FROM documents WHERE image NOT IN (SELECT image FROM images WHERE image IS NOT NULL"
            f" AND (place != ? OR {IS_OPEN}))",
            (near,),
        )
