"""Looking at bases: what a name stands for, whether it can be used, whether its image is there already."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from image_cache import bake, oci
from image_cache.bake import Added
from image_cache.places import Origin, Seen, Source, Target, blame
from image_cache.prebuild.journal import Journal
from image_cache.prebuild.schema import Row
from image_cache.unfit import SchemaOneError
from kit.errors import NotFoundError

INDEXES = (oci.INDEX, oci.DOCKER_LIST)
SCHEMA_ONES = tuple(
    f"application/vnd.docker.distribution.manifest.v1+{form}" for form in ("json", "prettyjws")
)
DONE: dict[str, Any] = {"look": 0, "tries": 0, "due": 0, "error_class": None, "error": None}


class Looker:
    """source_of: the place of a base. added: what a bake would put on it; None: not made yet, so that no
    image can be known to be there."""

    def __init__(
        self, journal: Journal, source_of: Callable[[Origin], Source], target: Target, added: Added | None
    ) -> None:
        self.journal, self.source_of, self.target, self.added = journal, source_of, target, added

    def look(self, row: Row) -> None:
        """Asks by HEAD first; a manifest is fetched at most once, and not where it would count as a pull.
        Writes down what was learned; raises what says that it cannot be used, or is not known."""
        origin = Origin.parse(row.base)
        source = self.source_of(origin)
        with self.target.together(row.repository, source, origin.repository, ()):
            self._look(row, origin, source)

    def _look(self, row: Row, origin: Origin, source: Source) -> None:
        seen = source.look(origin)
        if seen is None:
            raise NotFoundError(f"{row.base} does not exist", "check the name and the tag")
        if seen.media_type in SCHEMA_ONES:
            raise SchemaOneError(f"{row.base} has a manifest of schema 1; expected schema 2 or OCI")
        image = row.image if row.seen == seen.digest else None
        if image is None and seen.media_type and seen.media_type not in INDEXES:
            image = seen.digest
        documents = self.journal.kept(image)
        if documents is None and not seen.counted:
            fetched = source.image(origin.at(seen.digest), self.journal.header.platform)
            image, documents = fetched.digest, (fetched.manifest, fetched.config)
        if documents and image:
            self.journal.keep(image, *documents)
        there = self._there(row, image, documents)
        self._found(row, seen, image, there)

    def _there(self, row: Row, image: str | None, documents: tuple[bytes, bytes] | None) -> str | None:
        """The digest of what was baked of it, if the target has that already."""
        if self.added is None or image is None:
            return None
        wanted = bake.planned(*documents, row.base, image, self.added) if documents else None
        with blame.asking("target"):
            found = self.target.find(row.repository, bake.tag(image, self.added))
            if found is None or (wanted and wanted.digest == found):
                return found
            said = self.target.labels(row.repository, found)
        ours = said.get(bake.BASE_DIGEST) == image and said.get(bake.ADDRESS) == self.added.address
        return found if ours else None

    def _found(self, row: Row, seen: Seen, image: str | None, there: str | None) -> None:
        known: dict[str, Any] = {"baked": there, "begun": None}
        if there and image and self.added:
            known |= {"address": self.added.address, "tag": bake.tag(image, self.added)}
        self.journal.change(
            row, seen=seen.digest, image=image, state="ready" if there else "to-bake", looked=time.time(),
            **known, **DONE,
        )  # fmt: skip
