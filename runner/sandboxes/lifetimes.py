"""When a sandbox has lived long enough. Pure."""

from __future__ import annotations

from runner.sandboxes.nouns import Session
from runner.sandboxes.settings import Settings


def over(session: Session, settings: Settings, now: float) -> str | None:
    """Why it is to be ended, whatever it does; None: it may go on.

    Its longest time counts from its container's start, so one that waited for a slot loses nothing.
    """
    if settings.longest and session.started and now - session.started >= settings.longest:
        return f"it lived for {settings.longest:g} s, the longest that is allowed"
    return None


def idle(session: Session, settings: Settings, now: float) -> str | None:
    """Why it is to be ended unless its server says that it was busy; None: it was used not long ago.

    One that is paused cannot be busy. One that waits for a slot, or comes up, is not idle.
    """
    if not settings.idle or session.phase not in ("ready", "paused"):
        return None
    if now - last(session) >= settings.idle:
        return f"it was idle for {settings.idle:g} s"
    return None


def last(session: Session) -> float:
    """When it was last of use."""
    return max(session.used, session.ready, session.started, session.began)
