"""A stand-in for SkyRL's trainer: `train.py HEALTH-URL PROFILES [--fail]`. It asks the router how that was
started, and logs steps at that one's rate.

The rates are those that ThunderAgent's README shows; nothing is measured. It goes on only once what it wrote
was copied to the run folder while it runs. `--fail`: it ends badly within a step.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from urllib.request import urlopen

RATES = {("default", 1.0): 1222.7, ("tr", 0.1): 1809.6}
TRAJECTORIES = 396


def say(line: str) -> None:
    """As loguru does through Ray, in colours without a terminal."""
    head = "\x1b[36m(skyrl_entrypoint pid=1512)\x1b[0m \x1b[32m2026-01-01 10:00:00.123\x1b[0m"
    print(f"{head} | \x1b[1mINFO\x1b[0m - {line}\x1b[m\x1b[K", file=sys.stderr, flush=True)  # noqa: T201


def copied(file: Path) -> bool:
    return Path(f"{os.environ['SLIPWORKS_RUN']}/artifacts{file}").exists()


def main() -> int:
    with urlopen(sys.argv[1], timeout=5) as answer:
        health = json.load(answer)
    rate = RATES[health["router_mode"], health["acting_token_weight"]]
    file = Path(sys.argv[2], "step_profiles.csv")
    file.parent.mkdir()
    file.write_text("first\n")
    until = time.monotonic() + 60
    while not copied(file):
        if time.monotonic() > until:
            return 9
        time.sleep(0.05)
    for reward in ("0.13", "nan"):
        say("Started: 'step'")
        say("Finished: 'generate', time cost: 100.00s")
        say(f"avg_final_rewards: {reward}, avg_response_length: {rate * 100 / TRAJECTORIES!r}")
        say("Finished: 'step', time cost: 120.00s")
    say("Started: 'step'")
    file.write_text("last\n")
    return 3 if "--fail" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
