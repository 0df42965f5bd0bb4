"""What a prebuild is at, for people and for programs: counts, sections of short lines, a report's files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import msgspec
from msgspec import Struct

from image_cache.prebuild.journal import Journal
from image_cache.prebuild.planning import Forecast, span
from image_cache.prebuild.schema import STATES, ErrorClass, Row, State
from kit import files

MEANINGS: dict[State, str] = {
    "new": "not looked at yet",
    "to-bake": "to be baked",
    "ready": "there",
    "missing": "the registry says that there is no such image",
    "wrong-platform": "not for this platform",
    "schema-1": "in Docker's first, dead manifest format",
    "unauthorised": "not for us, or not there: the registry does not say which",
    "unknown": "not known: the registry did not answer",
    "failed": "could not be made",
}
LOST: tuple[State, ...] = ("missing", "wrong-platform", "schema-1", "unauthorised", "unknown", "failed")
"""States of images that are wanted and will not be there without somebody's doing."""


class Session(Struct, frozen=True, kw_only=True):
    """One run. ended: "complete", "stopped" (by a signal), or an error's words. requests: by method."""

    verb: str
    began: float
    seconds: float
    done: int
    failed: int
    bytes: int
    requests: dict[str, int]
    ended: str

    @property
    def rate(self) -> float:
        return self.done / self.seconds if self.seconds > 0 else 0.0


def lost(journal: Journal) -> int:
    """How many wanted images will not be there without somebody's doing."""
    counts = journal.counts()
    return sum(counts.get(state, 0) for state in LOST)


def summary(journal: Journal) -> dict[str, Any]:
    """Everything but the single images, for JSON."""
    counts = journal.counts()
    return {
        "target": journal.header.target,
        "platform": str(journal.header.platform),
        "journal": str(journal.folder) if journal.folder else None,
        "images": {"total": sum(counts.values()), **{state: counts.get(state, 0) for state in STATES}},
        "errors": dict(journal.error_counts()),
    }


def table(journal: Journal) -> list[tuple[str, str, str]]:
    """State, number and meaning of the states that there are."""
    counts = journal.counts()
    return [(state, str(count), MEANINGS[state]) for state, count in counts.items()]


def failures(journal: Journal) -> Iterator[Row]:
    """Images with something wrong, also those that are tried again."""
    words = ", ".join(f"'{state}'" for state in LOST)
    return journal.rows(f"error_class IS NOT NULL OR state IN ({words})")


def failure(row: Row) -> dict[str, Any]:
    return {
        "base": row.base, "state": row.state, "error_class": row.error_class, "error": row.error,
        "attempts": row.attempts,
    }  # fmt: skip


def forecast_lines(forecast: Forecast) -> list[tuple[str, str]]:
    """What is to come, in short lines."""
    least = "at least " if forecast.unseen else ""
    rows = [
        ("requests", f"{least}{forecast.requests:,}"),
        ("bytes", f"{least}{size(forecast.bytes)}" if forecast.bytes or not forecast.unseen else "not known"),
    ]
    if forecast.unseen:
        rows.append(("", f"{forecast.unseen:,} images have manifests that were not looked at"))
    for each in forecast.fetches:
        if each.quota:
            rate = f"{each.quota.limit} manifests in {span(each.quota.window)}"
            source = "which it publishes, but did not tell us" if each.quota.assumed else "as it told us"
            rows.append((each.place, f"{each.images:,} manifests at {rate} ({source}): {span(each.seconds)}"))
    return rows


def write(journal: Journal, session: Session) -> tuple[Path, Path] | None:
    """`report.json` and `report.md` beside the journal: of the whole prebuild, and of this run. Each appears
    whole; images are written one by one."""
    if journal.folder is None:
        return None
    paths = journal.folder / "report.json", journal.folder / "report.md"
    for path, fill in zip(paths, (_as_json, _as_markdown), strict=True):
        with files.beside(path) as temporary:
            with files.space_named(path), temporary.open("w") as file:
                fill(file, journal, session)
            files.settle(temporary, path)
    return paths


def _as_json(file: IO[str], journal: Journal, session: Session) -> None:
    run = {**msgspec.to_builtins(session), "began": _time(session.began), "per_second": session.rate}
    head = json.dumps({**summary(journal), "run": run}, indent=2)
    file.write(head.removesuffix("\n}") + ',\n  "failures": [')
    for number, row in enumerate(failures(journal)):
        file.write(("," if number else "") + "\n    " + json.dumps(failure(row)))
    file.write("\n  ]\n}\n")


def _as_markdown(file: IO[str], journal: Journal, session: Session) -> None:
    header = journal.header
    file.write(f"# Prebuild of {header.target} for {header.platform}\n\n")
    file.write(f"`{session.verb}` from {_time(session.began)}, {span(session.seconds)}: {session.ended}. ")
    file.write(
        f"{session.done} images done ({session.rate:.1f} a second), {session.failed} of them failed, "
        f"{size(session.bytes)} sent, {sum(session.requests.values()):,} requests.\n\n"
    )
    file.write("| state | images | |\n|---|---:|---|\n")
    for row in table(journal):
        file.write("| " + " | ".join(row) + " |\n")
    errors = journal.error_counts()
    if errors:
        file.write("\n| error class | images |\n|---|---:|\n")
        file.write("".join(f"| {kind} | {count} |\n" for kind, count in errors.items()))
    for number, each in enumerate(failures(journal)):
        if not number:
            file.write("\n| image | state | error class | error | attempts |\n|---|---|---|---|---:|\n")
        cells = (each.base, each.state, each.error_class or "", each.error or "", str(each.attempts))
        file.write("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n")


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")


def size(count: int) -> str:
    """Bytes in the unit that reads best: `9.1 GB`."""
    number = float(count)
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.0f} {unit}"
        number /= 1000
    return f"{number:.1f} GB" if number < 1000 else f"{number / 1000:.1f} TB"


def error_rows(journal: Journal) -> list[tuple[ErrorClass, str]]:
    return [(kind, str(count)) for kind, count in journal.error_counts().items()]
