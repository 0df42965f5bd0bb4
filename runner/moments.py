"""Times and spans as people write and read them: `6h`, `2026-11-21 14:05`, `1:02:03`."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from kit.errors import UsageError

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_SPAN = re.compile(rf"(\d+(?:\.\d+)?)([{''.join(SECONDS)}])")
LONGEST = 100 * 365 * 86400  # seconds; what is older than that is no date at all


def span(text: str, option: str) -> float:
    """Seconds in `90s`, `30m`, `6h`, `2d`, `1w`; UsageError names the option."""
    found = _SPAN.fullmatch(text.strip().lower())
    if not found or not (seconds := float(found[1]) * SECONDS[found[2]]) or seconds > LONGEST:
        hint = f"{option} {text}d for days, {text}h for hours" if text.isdecimal() else f"{option} 6h"
        raise UsageError(f"{option}: found {text!r}, expected a span with its unit: 30m, 6h, 2d or 1w", hint)
    return seconds


def local(at: float | None) -> str:
    """The minute in local time; `-` for none."""
    return "-" if at is None else datetime.fromtimestamp(at).strftime("%Y-%m-%d %H:%M")


def utc(at: float | None) -> str | None:
    """For machines: `2026-11-21T14:05:09+00:00`."""
    return None if at is None else datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")


def since(text: str) -> float | None:
    """Seconds since 1970 of an ISO time; None for what is none."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None


def lasted(begun: float | None, ended: float) -> str:
    """`0:05`, `1:02:03`, `2-01:00:00`, as Slurm writes it; `-` for what has not begun."""
    if begun is None:
        return "-"
    minutes, seconds = divmod(max(0, round(ended - begun)), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}-{hours:02}:{minutes:02}:{seconds:02}"
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
