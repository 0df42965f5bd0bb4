"""The run folder's own functions."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

from runner import runs


def test_of_a_huge_log_only_the_end_is_read(tmp_path: Path) -> None:
    log = tmp_path / "node-0.log"
    with log.open("wb") as file:
        file.truncate(64 << 20)
        file.seek(0, 2)
        file.write(b"\n".join(b"line %d" % number for number in range(100)) + b"\n")
    tracemalloc.start()
    try:
        told = runs.last_lines(log)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert told.splitlines() == [f"  line {number}" for number in range(100 - runs.TAIL, 100)]
    assert peak < 4 << 20
    assert runs.last_lines(tmp_path / "none.log") == "  (there is no none.log)"
