"""What the API asks: one node's desk (desk.py) and the front of several (front.py) are both such a host."""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct

from kit.errors import UsageError
from runner.sandboxes.nouns import Ready, Session, Wish


class ImageFound(Struct, frozen=True, kw_only=True):
    """An image that could be started. size: bytes; uploaded: as RFC 3339 writes a time."""

    size: int
    uploaded: str


class Counts(Struct, frozen=True, kw_only=True):
    """slots that there are, free, and how many requests wait."""

    slots: int
    free: int
    waiting: int


def same_image(found: Session, wish: Wish) -> None:
    """UsageError where a session that lives is asked for with another image."""
    if found.wish.image != wish.image:
        raise UsageError(
            f"the session {wish.session!r} was begun with the image {found.wish.image}, "
            f"and is asked for with {wish.image}",
            "stop it first, or use another session_id",
        )


class Host(Protocol):
    """Every call may come from several threads at once.

    pauses  why it cannot pause here; None: it can.
    """

    @property
    def pauses(self) -> str | None: ...

    def start(self, wish: Wish) -> Session:
        """The session of that name, begun now where none is live; a live one is given as it is (409's class,
        UsageError, where it was begun with another image). Returns at once: its phase tells what becomes of
        it. BusyError where no slot is free and none may be waited for; UnsupportedError for a factor that
        this host can never give."""

    def find(self, session: str) -> Session | None:
        """The newest of that name, live or ended."""

    def known(self, id: str) -> Session | None: ...

    def pause(self, id: str) -> Session:
        """UnsupportedError where it cannot; NotFoundError for one that is not live."""

    def resume(self, id: str) -> Session: ...

    def stop(self, id: str) -> Session:
        """Idempotent. NotFoundError for an id that never was."""

    def sessions(self) -> list[Session]:
        """Those that are live, the oldest first."""

    def counts(self) -> Counts: ...

    def logs(self, id: str, lines: int = 100) -> str: ...

    def exists(self, image: str) -> ImageFound | None:
        """Whether an image could be started. NetworkError, AuthError, QuotaError where that is not known."""


class Images(Protocol):
    """Where a desk gets its images from (images.py)."""

    def ready(self, wish: Wish) -> Ready:
        """An image that the engine can start now; blocks while it is brought, once for any number that ask
        at the same time. NotFoundError, AuthError, QuotaError, NetworkError, WrongPlatformError tell why
        not."""

    def exists(self, image: str) -> ImageFound | None: ...

    def close(self) -> None:
        """Ends what is being brought, so that no program of it outlives the server. Idempotent."""
