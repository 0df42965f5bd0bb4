"""Making images: from what the journal has of a base to what stands in the target."""

from __future__ import annotations

import time
from collections.abc import Callable

from image_cache import bake
from image_cache.bake import Added, Baked
from image_cache.places import Origin, Source, Target
from image_cache.places.turns import Turns
from image_cache.prebuild.holdings import Holdings
from image_cache.prebuild.journal import Journal
from image_cache.prebuild.looking import DONE
from image_cache.prebuild.schema import Row
from kit.errors import NotFoundError


class Maker:
    """added: what is put on every base; None: bases are copied into the target as they are, and not baked.

    Threads may share it. `moved` and `there` count the bytes that were sent, and the images that were found
    to be done.
    """

    def __init__(
        self, journal: Journal, source_of: Callable[[Origin], Source], target: Target, added: Added | None
    ) -> None:
        self.journal, self.source_of, self.target, self.added = journal, source_of, target, added
        self.known = Holdings(journal.database)
        self.moved = self.there = 0
        self._turns = Turns()

    def make(self, row: Row) -> None:
        """One image, and the note that it is done. What is there already is found, never made again."""
        self.journal.begin(row)
        origin = Origin.parse(row.base)
        source = self.source_of(origin)
        seen = row.seen or self._seen(source, origin, row)
        image, manifest, config = self._documents(source, origin, row, seen)
        wanted = self._wanted(row, image, manifest, config)
        # Two names may stand for one image, and then have one tag: the second finds what the first made.
        with self._turns(row.repository, wanted.tag):
            moved = bake.do(wanted, source, origin, self.target, row.repository, self.known)
        self._done(row, image, wanted, moved)

    def _seen(self, source: Source, origin: Origin, row: Row) -> str:
        """Of a base that no plan could look at."""
        found = source.look(origin)
        if found is None:
            raise NotFoundError(f"{row.base} does not exist", "check the name and the tag")
        self.journal.change(row, seen=found.digest, state="to-bake", looked=time.time())
        return found.digest

    def _documents(self, source: Source, origin: Origin, row: Row, seen: str) -> tuple[str, bytes, bytes]:
        if row.image and (kept := self.journal.kept(row.image)):
            return row.image, *kept
        fetched = source.image(origin.at(row.image or seen), self.journal.header.platform)
        with self.journal.database.transaction():
            self.journal.keep(fetched.digest, fetched.manifest, fetched.config)
            self.journal.change(row, image=fetched.digest)
        return fetched.digest, fetched.manifest, fetched.config

    def _wanted(self, row: Row, image: str, manifest: bytes, config: bytes) -> Baked:
        if self.added is None:
            return bake.copied(manifest, config, row.base, mirror_tag(image))
        return bake.planned(manifest, config, row.base, image, self.added)

    def _done(self, row: Row, image: str, made: Baked, moved: bake.Moved) -> None:
        with self.journal.database.transaction():
            self.known.flush()
            self.moved += moved.bytes
            self.there += moved.there
            now = time.time()
            if self.added is None:
                told = {"mirrored": image, "state": "to-bake"}
            else:
                told = {"baked": moved.digest, "state": "ready", "tag": made.tag}
                told |= {"address": self.added.address}
            self.journal.change(row, **told, **DONE, image=image, bytes=moved.bytes, ended=now)


def mirror_tag(image: str) -> str:
    """The tag of a copy: made of its digest, so that it never stands for anything else."""
    return f"base-{image.removeprefix('sha256:')[:12]}"
