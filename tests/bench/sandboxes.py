"""How soon a sandbox of the server is ready, beside the same image by hand, and beside one without byte code;
and how many are started in a minute. Prints only.

    .venv/bin/python -m tests.bench.sandboxes [--rounds 5] [--many 24] [--slots 4]

The images are those of tests.bench.agent: a busybox with the agent's layer on it, in a storage of podman that
is this run's alone. By hand: from the start of `podman run` until /alive answers. By the server: from the
request to /start until the session is ready, which a client asks for every 20 ms. A minute's: so many clients
at once, each of which gives its sandbox back when it is ready.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from containers import engine
from kit import say
from runner import sandbox
from runner.sandbox import Start
from tests.bench.agent import made
from tests.live.parts_engines import private_storage
from tests.live.parts_sandbox_server import Server, serving

POLL = 0.02
MOST = 600.0


def by_hand(podman: engine.Engine, reference: str, folder: Path) -> float:
    with sandbox.started(Start(engine=podman, image=reference, deadline=MOST), folder) as running:
        return running.ready


def by_server(server: Server, session: str, reference: str) -> float:
    """Seconds until it was ready; it is stopped then."""
    began = time.monotonic()
    given = server.start(session, reference)
    while (found := server.ask("GET", f"/sessions/{session}").good)["pod_status"] != "ready":
        if found["pod_status"] == "failed" or time.monotonic() - began > MOST:
            raise SystemExit(f"{reference}: {found['why']}")
        time.sleep(POLL)
    taken = time.monotonic() - began
    server.stop(given["runtime_id"])
    return taken


def a_minute(server: Server, reference: str, many: int, slots: int) -> float:
    """Sandboxes that were ready, and stopped again, in a minute."""
    began = time.monotonic()
    with ThreadPoolExecutor(slots) as pool:
        list(pool.map(lambda number: by_server(server, f"many-{number}", reference), range(many)))
    return many / (time.monotonic() - began) * 60


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for name, value in (("rounds", 5), ("many", 24), ("slots", 4)):
        parser.add_argument(f"--{name}", type=int, default=value)
    asked = parser.parse_args()
    storage = private_storage.__wrapped__()  # type: ignore[attr-defined]
    next(storage)
    with tempfile.TemporaryDirectory(prefix="slipworks-bench-") as name:
        folder = Path(name)
        podman = engine.get("podman")
        references = {}
        for each, image in made(folder).items():
            references[each] = f"localhost/slipworks/bench-{image.name}:1"
            podman.load(image, references[each])
        with serving(folder / "state", engine="podman", slots=asked.slots, cpus=1, queue=int(MOST)) as server:
            baked, bare = references["baked"], references["without byte code"]
            ways: dict[str, Callable[[int], float]] = {
                "by hand": lambda _: by_hand(podman, baked, folder),
                "by the server": lambda turn: by_server(server, f"turn-{turn}", baked),
                "by hand, without byte code": lambda _: by_hand(podman, bare, folder),
            }
            say.say(f"load before: {os.getloadavg()[0]:.1f}")
            # Rounds, not blocks: what else the machine does meanwhile meets all alike. The first warms up.
            found = [taken(ways, turn) for turn in range(asked.rounds + 1)][1:]
            show(found)
            rate = a_minute(server, baked, asked.many, asked.slots)
            say.answer(
                f"{rate:.1f} sandboxes a minute, {asked.slots} at once, on {os.cpu_count()} processors"
            )
    next(storage, None)


def taken(ways: Mapping[str, Callable[[int], float]], turn: int) -> dict[str, float]:
    found = {way: take(turn) for way, take in ways.items()}
    say.say(f"round {turn}: " + ", ".join(f"{way} {seconds:.2f} s" for way, seconds in found.items()))
    return found


def show(found: list[dict[str, float]]) -> None:
    hand, bare = (
        statistics.median(each[way] for each in found) for way in ("by hand", "by hand, without byte code")
    )
    for way in found[0]:
        taken = [each[way] for each in found]
        middle = statistics.median(taken)
        say.answer(f"{way:<27} {middle:6.2f}s  {min(taken):6.2f}s to {max(taken):6.2f}s"
                   f"   {middle / hand:.2f} of by hand, {middle / bare:.2f} of without byte code"
        )  # fmt: skip
    say.answer(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors, {len(found)} rounds")


if __name__ == "__main__":
    main()
