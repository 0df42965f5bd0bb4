"""What is told of a sandbox that failed: one line, for clients that show no more than that."""

from __future__ import annotations

import contextlib

from kit.errors import SlipworksError
from runner.sandboxes.bringing import Node
from runner.sandboxes.table import Entry

LONGEST = 300  # characters of a line


def told(node: Node, entry: Entry, message: str) -> str:
    """The first line of what went wrong, and the last one that there is: an error's own, or its log's."""
    first, *more = _lines(message) or ["it failed"]
    last = more[-1:] or _lines(_log(node, entry))[-1:]
    return first + "".join(f"; its last line: {line}" for line in last)


def ended(node: Node, entry: Entry) -> str:
    """Of one whose container ended by itself, and is still there."""
    how = ""
    with contextlib.suppress(SlipworksError):
        how = node.backend.why(entry.session.id)
    return told(node, entry, f"its container ended{how and ': '}{how}")


def _log(node: Node, entry: Entry) -> str:
    if not entry.session.engine:
        return ""
    try:
        return node.backend.logs(entry.session.id, 20)
    except SlipworksError:
        return ""


def _lines(text: str) -> list[str]:
    return [line.strip()[:LONGEST] for line in text.splitlines() if line.strip()]
