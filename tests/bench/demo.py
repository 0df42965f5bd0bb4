"""`make demo` cold and warm, with its parts, in a fresh checkout with a store and runs of its own.

    .venv/bin/python tests/bench/demo.py [--keep]

Cold means: no .venv, no image, no layer, no run. Not cold: the distribution's packages, downloads that uv has
cached, and what the engine keeps of images it was given. Prints; asserts nothing.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from msgspec import json

from kit import say

ROOT = Path(__file__).parents[2]
STEP = re.compile(r"(?P<what>.+?)(?:: | in )(?P<seconds>\d+\.\d) s$")  # as kit.say.step tells it


def main() -> None:
    place = Path(tempfile.mkdtemp(prefix="slipworks-bench-"))
    checkout = place / "checkout"
    subprocess.run(["git", "clone", "--quiet", ROOT, checkout], check=True)
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))
    }
    environment |= {"SLIPWORKS_CACHE": str(place / "cache"), "SLIPWORKS_RUNS": str(place / "runs")}
    environment.pop("VIRTUAL_ENV", None)
    try:
        cold = _demo("cold", checkout, environment, place / "runs")
        warm = _demo("warm", checkout, environment, place / "runs")
        say.answer(f"warm / cold: {warm / cold:.2f}")
    finally:
        if "--keep" in sys.argv:
            say.say(f"kept: {place}")
        else:
            shutil.rmtree(place, ignore_errors=True)


def _demo(title: str, checkout: Path, environment: dict[str, str], runs: Path) -> float:
    """One `make demo`; prints its time and its parts, and returns the seconds it took."""
    before = set(runs.glob("*"))
    began, started = time.perf_counter(), time.time()
    done = subprocess.run(
        ["make", "demo"],
        cwd=checkout,
        env=environment,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    took = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(f"make demo ({title}) ended with {done.returncode}:\n{done.stdout}")
    say.answer(f"{title}: make demo took {took:.1f} s")
    for line in done.stdout.splitlines():
        if found := STEP.search(line):
            say.answer(f"  {float(found['seconds']):7.1f} s  {found['what'].strip()}")
    for run in set(runs.glob("*")) - before:
        _events(run, started)
    return took


def _events(run: Path, started: float) -> None:
    """The run's own events, each with the seconds since `make demo` began."""
    for line in (run / "events.jsonl").read_bytes().splitlines():
        event = json.decode(line)
        say.answer(f"  at {event['at'] - started:5.1f} s  {event['who']}: {event['event']}")


if __name__ == "__main__":
    main()
