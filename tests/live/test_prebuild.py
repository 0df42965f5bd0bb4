"""runner prebuild against a real registry, in real processes: killed, stopped, refused, gone on with."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from image_cache.claim import Owner
from image_cache.references import Reference
from image_cache.registry import Registry
from tests.live import parts_prebuild, parts_registry
from tests.live.parts_faulty import faulty
from tests.live.parts_prebuild import Hub, argv, environment, fill, listed, ran

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A registry of one's own, and its log."""
    folder = tmp_path_factory.mktemp("logged registry")
    for host in parts_registry._serving(folder, ""):
        yield host, folder / "log"


def puts(log: Path, namespace: str) -> Counter[str]:
    """How often each tag of a namespace was put."""
    return parts_prebuild.answered(log, "PUT", f"{namespace}/")


def manifests(log: Path, namespace: str) -> Counter[str]:
    return Counter({path: count for path, count in puts(log, namespace).items() if "/manifests/" in path})


def status(cache: Path, *words: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(ran(cache, "status", "--json", *words)[0])
    return found


def test_plan_run_export_and_a_container_of_it(logged: tuple[str, Path], tmp_path: Path) -> None:
    host, log = logged
    names = fill(host, 30, "small")
    path = listed(tmp_path / "it's a list", [*(f"{name} n{at}" for at, name in enumerate(names)), names[0]])
    out, err = ran(tmp_path, "plan", path, "--to", f"{host}/one", "--platform", "amd64")
    assert "to-bake  30" in out and "31 entries, 30 images that were not known" in err
    assert not manifests(log, "one")
    out, _ = ran(tmp_path, "run")
    assert "ready  30" in out
    made = manifests(log, "one")
    assert len(made) == 30 and set(made.values()) == {1}
    found = json.loads(ran(tmp_path, "export")[0])
    assert set(found) == {*names, *(f"n{number}" for number in range(30))}
    registry = Registry(host)
    for name in (names[0], names[29]):
        baked = Reference.parse(found[name])
        base, _ = registry.manifest(Reference.parse(name))
        before, after = json.loads(base)["layers"], json.loads(registry.manifest(baked)[0])["layers"]
        assert after[: len(before)] == before and len(after) == len(before) + 2
    report = json.loads(next((tmp_path / "prebuilds").glob("*/report.json")).read_text())
    assert report["run"]["done"] == 30 and report["run"]["ended"] == "complete" and not report["failures"]


def test_after_a_run_nothing_is_asked(logged: tuple[str, Path], tmp_path: Path) -> None:
    host, log = logged
    path = listed(tmp_path / "list", fill(host, 10, "quiet"))
    ran(tmp_path, "plan", path, "--to", f"{host}/two", "--platform", "amd64")
    ran(tmp_path, "run")
    before = log.stat().st_size
    ran(tmp_path, "run")
    assert "ready  10" in ran(tmp_path, "plan", path, "--to", f"{host}/two", "--platform", "amd64")[0]
    ran(tmp_path, "run")
    time.sleep(0.3)
    assert log.stat().st_size == before
    ran(tmp_path, "plan", "--refresh")
    time.sleep(0.3)
    assert log.stat().st_size > before


def test_killed_again_and_again_every_image_is_put_once(logged: tuple[str, Path], tmp_path: Path) -> None:
    host, log = logged
    count = 300
    path = listed(tmp_path / "list", fill(host, count, "killed"))
    dice = random.Random(11)
    plan = ("plan", path, "--to", f"{host}/three", "--platform", "amd64")
    killed = [_killed(tmp_path, dice.uniform(0, 0.5), *plan) for _ in range(2)]
    ran(tmp_path, *plan)
    seen: list[int] = []
    for _ in range(12):
        killed.append(_killed(tmp_path, dice.uniform(0, 0.6), "run", "--jobs", "8"))
        seen.append(status(tmp_path)["images"]["ready"])
    assert any(killed) and seen == sorted(seen) and seen[-1] > 0
    ran(tmp_path, "run")
    told = status(tmp_path)["images"]
    assert told["ready"] == told["total"] == count
    made = manifests(log, "three")
    assert len(made) == count, "lost"
    assert set(made.values()) == {1}, "made twice"
    exported = json.loads(ran(tmp_path, "export")[0])
    registry = Registry(host)
    for name in dice.sample(sorted(exported), 20):
        registry.manifest(Reference.parse(exported[name]))


def _killed(cache: Path, after: float, *words: str | Path) -> bool:
    """Killed so long after it began to tell how far it is. Whether it was still at work then."""
    with subprocess.Popen(
        argv(*words, "--every", "0.05"), env=environment(cache), cwd=parts_prebuild.ROOT,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    ) as child:  # fmt: skip
        assert child.stderr
        while (line := child.stderr.readline()) and not line.startswith(("baking:", "looking:")):
            pass
        try:
            child.wait(after)
            return False
        except subprocess.TimeoutExpired:
            child.kill()
            return True


@pytest.mark.parametrize(("sign", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_in_order(
    logged: tuple[str, Path], tmp_path: Path, sign: signal.Signals, code: int
) -> None:
    host, log = logged
    name = f"ended{code}"
    ran(tmp_path, "plan", listed(tmp_path / "list", fill(host, 150, name)), "--to", f"{host}/{name}-out",
        "--platform", "amd64")  # fmt: skip
    with subprocess.Popen(
        argv("run", "--jobs", "4", "--every", "0.2"), env=environment(tmp_path), cwd=parts_prebuild.ROOT,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as child:  # fmt: skip
        assert child.stderr
        line = child.stderr.readline()
        assert line.startswith("baking: ")
        child.send_signal(sign)
        _, err = child.communicate(timeout=60)
    assert child.returncode == code, err
    told = status(tmp_path)
    ready = told["images"]["ready"]
    assert 0 < ready < 150 and told["at_work"] is None
    assert len(manifests(log, f"{name}-out")) == ready, "what was put is known, and the other way round"
    report = json.loads(next((tmp_path / "prebuilds").glob("*/report.json")).read_text())
    assert report["run"]["ended"] == "stopped" and report["images"]["ready"] == ready
    ran(tmp_path, "run")
    assert set(manifests(log, f"{name}-out").values()) == {1} and status(tmp_path)["images"]["ready"] == 150


def test_a_second_process_and_a_second_host_are_refused(logged: tuple[str, Path], tmp_path: Path) -> None:
    host, log = logged
    ran(tmp_path, "plan", listed(tmp_path / "list", fill(host, 150, "held")), "--to", f"{host}/held-out",
        "--platform", "amd64")  # fmt: skip
    with subprocess.Popen(
        argv("run", "--jobs", "1", "--every", "0.2"), env=environment(tmp_path), cwd=parts_prebuild.ROOT,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    ) as child:  # fmt: skip
        assert child.stderr and child.stderr.readline()
        _, err = ran(tmp_path, "run", code=23)
        assert f"is written to by process {child.pid} on {os.uname().nodename}: it is alive" in err
        assert status(tmp_path)["at_work"]["pid"] == child.pid
        child.kill()
    claim = next((tmp_path / "prebuilds").glob("*/claim"))
    _beating(claim, 3)
    asking = subprocess.Popen(
        argv("run"), env=environment(tmp_path), cwd=parts_prebuild.ROOT, stderr=subprocess.PIPE, text=True
    )
    beat = 3
    while asking.poll() is None:
        time.sleep(0.5)
        beat += 1
        _beating(claim, beat)
    assert asking.stderr and asking.returncode == 23
    err = asking.stderr.read()
    asking.stderr.close()
    assert "by process 4242 on node-17: it gave a sign of life just now (heartbeat" in err
    assert "wait until it ends, or on node-17: kill 4242" in err
    shutil.rmtree(claim)
    ran(tmp_path, "run")
    assert set(manifests(log, "held-out").values()) == {1} and status(tmp_path)["images"]["ready"] == 150


def _beating(claim: Path, beat: int) -> None:
    """As a process on another host would write it."""
    number = max(int(path.name) for path in claim.iterdir()) if beat > 3 else 99
    owner = Owner(host="node-17", pid=4242, started=1, machine="another boot", beat=beat)
    (claim / str(number)).write_bytes(msgspec.json.encode(owner).ljust(512))


def test_a_mirror_needs_the_source_no_more(
    logged: tuple[str, Path], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    target, log = logged
    folder = tmp_path_factory.mktemp("far registry")
    far = parts_registry._serving(folder, "")
    source = next(far)
    names = fill(source, 20, "far")
    ran(tmp_path, "plan", listed(tmp_path / "list", names), "--to", f"{target}/near", "--platform", "amd64")
    out, _ = ran(tmp_path, "run", "--mirror")
    assert "to-bake  20" in out
    copies = manifests(log, "near")
    assert len(copies) == 20 and all("/manifests/base-" in path for path in copies)
    far.close()  # the far registry is gone
    out, _ = ran(tmp_path, "run")
    assert "ready  20" in out
    made = manifests(log, "near")
    assert len(made) == 40 and set(made.values()) == {1}
    fetched = parts_prebuild.answered(folder / "log", "GET", "/manifests/", status=200)
    assert len(fetched) == 20 and set(fetched.values()) == {1}, "a manifest was fetched twice"


def test_a_registry_that_fails_for_a_third_of_the_requests(logged: tuple[str, Path], tmp_path: Path) -> None:
    """It refuses, resets, stalls and cuts short; no image is called missing, and all are right."""
    host, log = logged
    with faulty(host, stall=0.5) as proxy:
        names = [name.replace(host, proxy.host) for name in fill(host, 60, "faulty")]
        path = listed(tmp_path / "list", names)
        out, _ = ran(tmp_path, "plan", path, "--to", f"{proxy.host}/faults", "--platform", "amd64")
        assert "missing" not in out
        out, _ = ran(tmp_path, "run")
    assert "ready  60" in out
    assert len(manifests(log, "faults")) == 60
    exported = json.loads(ran(tmp_path, "export")[0])
    registry = Registry(host)
    for reference in exported.values():
        registry.manifest(Reference.parse(reference.replace(proxy.host, host)))


def test_into_a_layout_and_from_it_into_another_registry(
    logged: tuple[str, Path], registry_host: str, tmp_path: Path
) -> None:
    host, _ = logged
    path = listed(tmp_path / "list", fill(host, 6, "layout"))
    ran(tmp_path, "plan", path, "--to", f"oci:{tmp_path}/out", "--platform", "amd64")
    assert "ready  6" in ran(tmp_path, "run", "--jobs", "3")[0]
    assert "ready  6" in ran(tmp_path, "run")[0]
    found = json.loads(ran(tmp_path, "export")[0])
    again = listed(tmp_path / "again", sorted(set(found.values())))
    words = ("--to", f"{registry_host}/from-layout", "--platform", "amd64")
    ran(tmp_path, "plan", again, *words)
    assert "ready  6" in ran(tmp_path, "run", *words)[0]


def test_a_hub_that_counts_is_planned_without_a_pull_and_waited_for(
    logged: tuple[str, Path], registry_host: str, tmp_path: Path
) -> None:
    host, log = logged
    hub = Hub(registry_host, limit=10, window=6)
    with contextlib.closing(hub):
        names = [name.replace(registry_host, hub.host) for name in fill(registry_host, 25, "hub")]
        words = ("plan", listed(tmp_path / "list", names), "--to", f"{host}/hubs", "--platform", "amd64")
        to_come = json.loads(ran(tmp_path, *words, "--json")[0])["to_come"]
        assert not hub.got, "planning took of the quota"
        (fetch,) = to_come["fetches"]
        assert fetch["images"] == to_come["unseen"] == 25 and fetch["seconds"] == 15
        assert fetch["quota"] == {"limit": 10, "window": 6, "remaining": 10, "assumed": False}
        out, _ = ran(tmp_path, "run")
    assert "ready  25" in out
    assert len(hub.got) == 25 and set(hub.got.values()) == {1}, "a manifest was fetched twice"
    assert set(manifests(log, "hubs").values()) == {1}


def test_what_cannot_be_baked_is_told_by_kind(
    logged: tuple[str, Path], locked_registry_host: str, tmp_path: Path
) -> None:
    host, _ = logged
    good = fill(host, 3, "mixed")
    bad = [f"{host}/mixed/none:1", f"{locked_registry_host}/a/b:1", "localhost:1/nobody/there:1"]
    path = listed(tmp_path / "list", [*good, *bad])
    words = ("--to", f"{host}/mixed-out", "--platform", "arm64")
    ran(tmp_path, "plan", path, *words)
    told = status(tmp_path)["images"]
    failures = json.loads(ran(tmp_path, "status", "--json", "--failed")[0])["failures"]
    kinds = {each["base"].partition("/")[0]: each["error_class"] for each in failures}
    assert kinds[locked_registry_host] == "auth" and kinds["localhost:1"] == "transient"
    assert told["wrong-platform"] == 3 and told["missing"] == 1
    assert told["unauthorised"] == 1 and told["unknown"] == 1
    ran(tmp_path, "plan", listed(path, [*good, *bad[:2]]), "--replace", *words)
    _, err = ran(tmp_path, "run", code=43)
    assert "5 of 5 images could not be made: 3 platform, 1 base missing, 1 auth" in err
