"""Whether an attempt has made a step: a job that failed before its first one would fail again.

A step was made when
  - the command's output has a line with `Started: 'step'` or `Finished: 'step'`, in SkyRL's form (see
    training_log.py), colours and Ray's prefixes allowed, or
  - the folder of checkpoints, if it is the run's own, has a file that was not there, or was another, when the
    attempt began. In a `shared:` one it may be another run's, so there only the output counts.
Where a trainer does neither, set `checkpoints: true` and let it write there.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

KILLED = frozenset({128 + signal.SIGTERM, 128 + signal.SIGKILL})
"""Exit codes of a command that did not end by itself: another attempt may do better."""
MARK = re.compile(rb"(?:Started|Finished): 'step'")
ESCAPE = re.compile(rb"\x1b\[[0-?]*[ -/]*[@-~]")


class Steps:
    """Made before the command starts."""

    def __init__(self, log: Path, checkpoints: Path | None) -> None:
        self.log, self.checkpoints = log, checkpoints
        self._before = set(_files(checkpoints)) if checkpoints else set()

    def verdict(self, code: int) -> str | None:
        """Why no further attempt may run after the command's end with that exit code; None: one may."""
        if code == 0:
            return "succeeded"
        return None if code in KILLED or self.made() else "no step was made"

    def made(self) -> bool:
        """Whether a step has been made since."""
        return self._told() or self._kept()

    def _told(self) -> bool:
        try:
            with self.log.open("rb") as lines:
                return any(b"'step'" in line and MARK.search(ESCAPE.sub(b"", line)) for line in lines)
        except OSError:
            return False

    def _kept(self) -> bool:
        return bool(self.checkpoints) and any(each not in self._before for each in _files(self.checkpoints))


def _files(folder: Path | None) -> Iterator[tuple[str, int, int]]:
    """Path, size and time of every file below; what vanishes meanwhile is left out."""
    for place, _, names in os.walk(folder or os.devnull):
        for name in names:
            path = f"{place}/{name}"
            try:
                found = os.lstat(path)
            except OSError:
                continue
            yield path, found.st_size, found.st_mtime_ns
