"""The sandbox server: what a request costs with a thousand sandboxes in its tables. Prints.

.venv/bin/python -m tests.bench.sandbox_requests [sandboxes] [clients at once]

The engine is a table, so what is measured is the server: HTTP, the key, the desk. It is a process of its own;
clients keep their connections, as OpenHands' do.
"""

from __future__ import annotations

import http.client
import json
import multiprocessing
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path

from kit import say
from tests.unit.parts_desk import made, reached, wish
from tests.unit.parts_served import KEY, served

EACH = 2000  # requests of a kind


def serve(folder: str, count: int, told: Connection) -> None:
    """A server of `count` sandboxes that are ready and have room for some more, until its parent is done."""
    desk = made(Path(folder), slots=count + 100)
    desk.recover()
    for number in range(count):
        desk.start(wish(f"s{number}"))
    for number in range(count):
        reached(desk, f"s{number}", "ready")
    with served(desk) as url:
        told.send(url)
        told.recv()
    desk.close()


class Caller:
    """One client, with its connection."""

    def __init__(self, url: str) -> None:
        self.wire = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)

    def ask(self, method: str, path: str, body: object = None) -> tuple[float, bytes]:
        """Seconds, and the answer."""
        raw = None if body is None else json.dumps(body)
        headers = {"X-API-Key": KEY, "Content-Type": "application/json"}
        began = time.perf_counter()
        self.wire.request(method, path, raw, headers)
        answer = self.wire.getresponse()
        found = answer.read()
        took = time.perf_counter() - began
        assert answer.status == 200, (answer.status, found)
        return took, found


def told(what: str, times: list[float]) -> None:
    times.sort()
    at = [1000 * times[min(len(times) - 1, int(len(times) * part))] for part in (0.5, 0.9, 0.99)]
    say.answer(f"{what:<44} p50 {at[0]:7.2f} ms   p90 {at[1]:7.2f} ms   p99 {at[2]:7.2f} ms")


def measured(url: str, count: int, clients: int) -> None:
    known = json.loads(Caller(url).ask("GET", "/list")[1])["runtimes"]
    kinds = {
        "GET /sessions/NAME": lambda caller, n: caller.ask("GET", f"/sessions/s{n % count}"),
        "GET /runtime/ID": lambda caller, n: caller.ask("GET", f"/runtime/{known[n % count]['runtime_id']}"),
        "POST /start of a live one": lambda caller, n: caller.ask(
            "POST", "/start", {"image": "image", "session_id": f"s{n % count}"}
        ),
        "POST /start of a new one": new,
        "GET /list": lambda caller, n: caller.ask("GET", "/list"),
    }
    for what, ask in kinds.items():
        times = EACH // 10 if what == "GET /list" else EACH
        callers = [Caller(url) for _ in range(clients)]

        def work(at: int, ask=ask, callers=callers, times=times) -> list[float]:  # type: ignore[no-untyped-def]
            return [ask(callers[at], n)[0] for n in range(at, times, clients)]

        with ThreadPoolExecutor(clients) as pool:
            told(what, [each for some in pool.map(work, range(clients)) for each in some])


def new(caller: Caller, n: int) -> tuple[float, bytes]:
    """It is stopped again, which is not counted: it waits for an engine."""
    took, raw = caller.ask("POST", "/start", {"image": "image", "session_id": f"new{n}"})
    caller.ask("POST", "/stop", {"runtime_id": json.loads(raw)["runtime_id"]})
    return took, raw


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    own, its = multiprocessing.Pipe()
    with tempfile.TemporaryDirectory() as folder:
        child = multiprocessing.get_context("spawn").Process(target=serve, args=(folder, count, its))
        child.start()
        url = own.recv()
        for clients in [int(sys.argv[2])] if len(sys.argv) > 2 else [1, 8]:
            say.answer(f"{count} sandboxes, {clients} at once")
            measured(url, count, clients)
        own.send(None)
        child.join()


if __name__ == "__main__":
    main()
