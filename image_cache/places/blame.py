"""Whose answer an error is: the target's, where images go, or that of the place where bases are.

That a target does not know or does not let us do something says nothing about a base. In one call both may
be asked (a target takes a blob from a source), so an error is marked where it arises, and keeps its mark.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Literal

from image_cache.oci import Descriptor
from image_cache.places import Fetched, Origin, Seen, Source
from kit.errors import SlipworksError
from kit.nouns import Platform

Side = Literal["base", "target"]


@contextlib.contextmanager
def asking(side: Side) -> Iterator[None]:
    """What is raised inside, and was not marked yet, is this side's."""
    try:
        yield
    except SlipworksError as failure:
        vars(failure).setdefault("side", side)
        raise


def of_target(failure: BaseException) -> bool:
    """Whether an error is the target's; what was never marked is the base's."""
    return vars(failure).get("side") == "target"


class OfBase:
    """A source whose errors are its own, also where a target reads it."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.name = source.name

    def look(self, origin: Origin) -> Seen | None:
        with asking("base"):
            return self.source.look(origin)

    def image(self, origin: Origin, platform: Platform) -> Fetched:
        with asking("base"):
            return self.source.image(origin, platform)

    def blob(self, repository: str, blob: Descriptor) -> Iterator[bytes]:
        with asking("base"):
            yield from self.source.blob(repository, blob)
