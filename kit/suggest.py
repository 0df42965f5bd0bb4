"""Did-you-mean, worded the same everywhere."""

from __future__ import annotations

from collections.abc import Iterable

from kit.errors import UnknownNameError


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """The one choice that `word` was most likely meant to be, or None when nothing is close."""
    import difflib

    lowered = {choice.lower(): choice for choice in sorted(choices)}
    found = difflib.get_close_matches(word.lower(), lowered, n=1, cutoff=0.6)
    return lowered[found[0]] if found else None


def unknown(kind: str, word: str, choices: Iterable[str], where: str | None = None) -> UnknownNameError:
    """The error for a name that is not among `choices`: what is known, and what may have been meant.

    >>> unknown("arch", "gh20", ["gh200", "h100"]).message
    "unknown arch 'gh20': expected one of gh200, h100"
    """
    known = sorted(choices)
    place = f" in {where}" if where else ""
    message = f"unknown {kind} {word!r}{place}: expected one of {', '.join(known) or '(none)'}"
    meant = nearest(word, known)
    return UnknownNameError(message, f"did you mean {meant!r}?" if meant else None)
