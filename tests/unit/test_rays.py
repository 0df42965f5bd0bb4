"""How nodes come together in one Ray, with a stand-in that waits for what a test says."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kit import files
from runner.ends import Died
from runner.launch import RayPlan
from runner.meeting import Late, Meeting
from runner.rays import Ray, address
from tests.unit.parts_watch import until

pytestmark = pytest.mark.timeout(60)
# Each start does what the next line of `head` or `worker` says.
RAY = """#!/usr/bin/env python3
import pathlib, socket, sys, time
here, words = pathlib.Path(__file__).parent, " ".join(sys.argv)
who = "head" if "--head" in words else "worker"
steps = (here / who).read_text().splitlines()
begun = here / f"{who}-begun"
count = len(begun.read_text().splitlines()) if begun.exists() else 0
with begun.open("a") as file:
    print(words, file=file)
for step in steps[count].split():
    if step == "listen":
        listening = socket.create_server(("127.0.0.1", PORT))
    elif step == "up":
        print("Ray runtime started.", flush=True)
    elif step == "fail":
        sys.exit("no luck")
    else:
        while not (here / step).exists():
            time.sleep(0.01)
time.sleep(1000)
"""


class Cluster:
    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.meeting = folder, Meeting(folder / "meeting")
        self.meeting.open()
        plan = RayPlan(node_ip="127.0.0.1", ports={"port": port})
        files.write(folder / "ray", RAY.replace("PORT", str(port)), mode=0o755)
        env = {"PATH": f"{folder}:/usr/local/bin:/usr/bin:/bin"}
        self.head, self.worker = (Ray(plan, rank, folder / f"log-{rank}", env) for rank in (0, 1))
        self.tries: dict[str, int | BaseException] = {}
        self.told: list[str] = []

    def begin(self, head: str, worker: str) -> None:
        """Both at once; what each start of them does is one line."""
        (self.folder / "head").write_text(head)
        (self.folder / "worker").write_text(worker)
        for name, start in (("head", self.head.lead), ("worker", self.worker.join)):
            threading.Thread(target=self._run, args=(name, start), daemon=True).start()

    def _run(self, name: str, start: Callable[..., int]) -> None:
        try:
            self.tries[name] = start(Meeting(self.meeting.folder), 20 + _now(), _fine, self.told.append)
        except BaseException as failure:
            self.tries[name] = failure

    def go(self, name: str) -> None:
        (self.folder / name).touch()

    def starts(self, who: str) -> int:
        path = self.folder / f"{who}-begun"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def both(self) -> dict[str, int | BaseException]:
        until(lambda: len(self.tries) == 2)
        return self.tries


def _now() -> float:
    return time.monotonic()


def _fine() -> None:
    pass


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    made = Cluster(tmp_path, port)
    yield made
    for each in (made.head, made.worker):
        each.kill()


def test_a_worker_begins_when_the_heads_port_opens(cluster: Cluster) -> None:
    cluster.begin("open listen registered up", "up")
    until(lambda: cluster.starts("head"))
    assert cluster.meeting.head() is None
    cluster.go("open")
    until(lambda: cluster.starts("worker") and "started" in (cluster.folder / "log-1").read_text())
    assert not cluster.tries, "neither is registered for sure before the head is"
    cluster.go("registered")
    assert cluster.both() == {"head": 1, "worker": 1}
    assert f"--address={address(cluster.head.plan)}" in (cluster.folder / "worker-begun").read_text()
    assert cluster.meeting.joined(0) and not cluster.meeting.joined(1)


def test_a_try_that_began_too_early_is_one_more(cluster: Cluster) -> None:
    cluster.begin("listen registered up", "fail\nfail\nup")
    until(lambda: cluster.told)
    assert cluster.starts("worker") == 1, "the next waits for the head"
    cluster.go("registered")
    assert cluster.both() == {"head": 1, "worker": 2}
    assert cluster.starts("worker") == 3


def test_a_head_that_begins_anew_is_joined_anew(cluster: Cluster) -> None:
    """What has joined the first, or seems to, begins again too, once the second is registered."""
    cluster.begin("listen failing fail\nlisten registered up", "up\nup")
    until(lambda: cluster.starts("worker"))
    cluster.go("failing")
    until(lambda: cluster.starts("head") == 2)
    assert cluster.meeting.head() is None and cluster.starts("worker") == 1
    cluster.go("registered")
    assert cluster.both() == {"head": 2, "worker": 1}
    assert cluster.starts("worker") == 2


def test_a_head_that_never_starts_ends_the_waiting(cluster: Cluster) -> None:
    cluster.begin("listen fail\nfail", "up")
    until(lambda: "head" in cluster.tries)
    assert isinstance(cluster.tries["head"], Died) and "no luck" in str(cluster.tries["head"])
    assert cluster.meeting.head() is None and not cluster.meeting.joined(0)


def test_a_worker_has_two_tries_at_a_head_that_stands(cluster: Cluster) -> None:
    (cluster.folder / "worker").write_text("fail\nfail")
    cluster.meeting.publish_head("127.0.0.1:1")
    cluster.meeting.join(0)
    with pytest.raises(Died, match="no luck"):
        cluster.worker.join(cluster.meeting, 20 + _now(), _fine, cluster.told.append)
    assert cluster.starts("worker") == 2


def test_somebody_elses_port_is_not_taken_for_the_heads(cluster: Cluster) -> None:
    port = cluster.head.plan.ports["port"]
    with socket.create_server(("127.0.0.1", port)):
        cluster.begin("registered up", "up")
        until(lambda: cluster.starts("head"))
        with pytest.raises(Late):
            cluster.worker.join(cluster.meeting, 1 + _now(), _fine, cluster.told.append)
        assert cluster.meeting.head() is None
        cluster.go("registered")
        assert cluster.both() == {"head": 1, "worker": 1}
