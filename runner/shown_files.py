"""What of a run's files people look at first: the end of its log, and its newest checkpoint."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from runner import moments
from runner.run_states import Now
from runner.runs import CHECKPOINTS, RunFolder, tail
from runner.tables import Rows


def checkpoint(folder: RunFolder) -> Rows:
    """Where the run's checkpoints are, and the newest; no rows where it has none."""
    link = folder.root / CHECKPOINTS
    try:
        found = [(entry.stat().st_mtime, entry.name) for entry in os.scandir(link)]
    except OSError:
        return []
    rows = [("checkpoints", str(link.resolve()))]
    if found:
        at, name = max(found)
        rows.append(("newest", f"{name}, {moments.local(at)}"))
    return rows


def ends(found: Sequence[Now], lines: int, *, checkpoints: bool) -> Iterator[str]:
    """For each run the end of its log and, where asked for, its checkpoints."""
    for now in found:
        yield from end_of_log(now, lines)
        for name, value in checkpoint(now.files.folder) if checkpoints else ():
            yield f"{name}: {value}"


def end_of_log(now: Now, lines: int) -> Iterator[str]:
    """The last lines of the first node's newest log; none where there is no log. Bars that were drawn over
    one another are one line: its last state."""
    for attempt in reversed(now.files.folder.attempts()):
        log = attempt.log(0)
        if not log.exists():
            continue
        whole = tail(log).decode("utf-8", "replace").split("\n")
        yield f"--- {log}"
        yield from [line.rstrip("\r").rpartition("\r")[2] for line in whole if line][-lines:]
        return
