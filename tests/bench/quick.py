"""What must feel instant, each beside `python -c pass` of the same run. Prints; asserts nothing.

    make bench

Figures on a busy machine say little: read the ratios, and the spread beside them.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from kit import say

ROOT = Path(__file__).parents[2]
ROUNDS = 9
RUNNER = str(Path(sys.executable).with_name("runner"))
SUBJECTS: dict[str, list[str]] = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "runner --help": [RUNNER, "--help"],
    "runner config": [RUNNER, "config"],
    "./setup.sh kit": ["./setup.sh", "kit"],
    "runner image build cpu": [RUNNER, "image", "build", "cpu"],
    "make -s image": ["make", "-s", "image"],
}


def seconds(argv: list[str]) -> float:
    """One run. A failing one ends the benchmark with its output: its time would mean nothing."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))
    }
    began = time.perf_counter()
    done = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    took = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(f"{' '.join(argv)} ended with {done.returncode}:\n{done.stderr}")
    return took


def main() -> None:
    say.say("the first `make image`, which builds what is not built yet, is not measured …")
    seconds(SUBJECTS["make -s image"])
    # Rounds, not blocks: what else the machine does meanwhile meets all subjects alike.
    rounds = [{name: seconds(argv) for name, argv in SUBJECTS.items()} for _ in range(ROUNDS)]
    baseline = statistics.median(each["python -c pass"] for each in rounds)
    say.answer(f"{'':<24} {'median':>8} {'lowest':>8} {'highest':>8}   of python -c pass")
    for name in SUBJECTS:
        taken = [each[name] for each in rounds]
        middle = statistics.median(taken)
        say.answer(f"{name:<24} {middle * 1000:6.0f}ms {min(taken) * 1000:6.0f}ms {max(taken) * 1000:6.0f}ms"
                   f"   {middle / baseline:5.1f}x")  # fmt: skip


if __name__ == "__main__":
    main()
