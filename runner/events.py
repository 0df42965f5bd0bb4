"""When what happened in a run: one JSON object a line, one file a writer, merged at the end."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from msgspec import DecodeError, json

from kit import files


class Events:
    """Appends events of one writer. Fields: `at` (seconds since 1970), `who`, `event`, and what is given."""

    def __init__(self, path: Path, who: str) -> None:
        self.path = path
        self.who = who

    def mark(self, event: str, **fields: object) -> None:
        line = json.encode({"at": round(time.time(), 3), "who": self.who, "event": event, **fields})
        with self.path.open("ab") as file:
            file.write(line + b"\n")


def merge(sources: list[Path], out: Path) -> list[dict[str, object]]:
    """All events of the sources by time, written to `out`. A line cut off by a crash is dropped."""
    found: list[dict[str, object]] = []
    for source in sources:
        for line in source.read_bytes().splitlines():
            with contextlib.suppress(DecodeError):
                found.append(json.decode(line, type=dict[str, object]))
    found.sort(key=lambda event: float(str(event.get("at", 0))))
    files.write(out, b"".join(json.encode(event) + b"\n" for event in found))
    return found
