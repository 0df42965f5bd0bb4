"""Prebuilds of many images: what a second plan costs, and memory from 100 images on. Prints; asserts nothing.

    .venv/bin/python -m tests.bench.prebuild [100 1000 10000]

For each number of images, in a fresh real registry on loopback: filled with tiny bases, planned, baked with
a stand-in for the agent's layer, planned again and run again with nothing to do, exported; each a process of
its own, with its seconds, and the peak of its memory (VmHWM). How many images a second are baked is measured
beside its baseline in tests/bench/bake.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from kit import say
from tests.live import parts_registry
from tests.live.parts_prebuild import PEAK, ROOT, argv, environment, fill, listed


def timed(cache: Path, *words: str | Path) -> tuple[float, float]:
    """Seconds of a run as a process, and the megabytes of its peak."""
    peak = cache / "peak"
    began = time.perf_counter()
    done = subprocess.run(
        argv(*words), env={**environment(cache), PEAK: str(peak)}, cwd=ROOT, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    took = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(f"{words} ended with {done.returncode}:\n{done.stderr}")
    return took, int(peak.read_text()) / 1000


def measured(count: int, folder: Path) -> None:
    for host in parts_registry._serving(folder, ""):
        began = time.perf_counter()
        path = listed(folder / "list", fill(host, count))
        say.say(f"{count} images: bases pushed in {time.perf_counter() - began:.0f} s")
        cache = folder / "cache"
        cache.mkdir()
        plan = ("plan", path, "--to", f"{host}/baked", "--platform", "amd64")
        for title, words in (
            ("plan", plan), ("run", ("run",)), ("plan, all known", plan), ("run, nothing to do", ("run",)),
            ("status", ("status",)), ("export", ("export", "--output", folder / "map.json")),
        ):  # fmt: skip
            took, peak = timed(cache, *words)
            load = os.getloadavg()[0]
            say.answer(f"{count:>6}  {title:<20}{took:>9.2f} s {peak:>8.1f} MB  (load {load:.1f})")
        size = next((cache / "prebuilds").glob("*/journal.sqlite")).stat().st_size
        say.answer(f"{count:>6}  journal on disk {size / 1e6:.1f} MB")


def main() -> None:
    for count in map(int, sys.argv[1:] or (100, 1000, 10000)):
        with tempfile.TemporaryDirectory() as folder:
            measured(count, Path(folder))


if __name__ == "__main__":
    main()
