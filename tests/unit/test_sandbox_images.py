"""From a wish to something that an engine can start: what is pulled, when, how often, and what is mounted."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from image_cache import oci
from image_cache.places import Origin
from kit.errors import (
    HostError,
    InvalidFileError,
    NetworkError,
    NotFoundError,
    UnsupportedError,
    UsageError,
)
from kit.nouns import Platform
from runner.sandboxes import images
from runner.sandboxes.engine_images import EngineImages
from runner.sandboxes.host import ImageFound
from runner.sandboxes.images import InRegistries, Together
from runner.sandboxes.nouns import Pull, Ready
from runner.sandboxes.settings import Settings
from runner.sandboxes.sif_images import SifImages
from tests.unit.parts_sandbox_images import (
    BAKED,
    BARE,
    MADE,
    START,
    Engine,
    caught,
    engine,
    mounted,
    wish,
)

__all__ = ["engine"]


@pytest.fixture
def mine(engine: Engine) -> EngineImages:
    return EngineImages(Settings(pull_within=20.0), "podman")


def test_a_base_has_the_layer_mounted_and_a_baked_one_is_as_it_is(mine: EngineImages, engine: Engine) -> None:
    engine.put(engine.here, "r.example/a/base:1", BARE)
    engine.put(engine.here, "r.example/a/baked:1", BAKED)
    assert mine.ready(wish("r.example/a/base:1")) == mounted("r.example/a/base:1")
    assert mine.ready(wish("r.example/a/baked:1")) == Ready(reference="r.example/a/baked:1", entrypoint=START)
    assert engine.pulled == []


@pytest.mark.parametrize(
    ("pull", "here", "there", "pulls"),
    [
        ("IfNotPresent", True, True, 0), ("IfNotPresent", False, True, 1), ("Never", True, True, 0),
        ("Always", True, True, 1), ("Always", False, True, 1),
    ],
)  # fmt: skip
def test_the_pull_policy_is_honoured(
    mine: EngineImages, engine: Engine, pull: Pull, here: bool, there: bool, pulls: int
) -> None:
    for folder in [engine.here] * here + [engine.there] * there:
        engine.put(folder, "r.example/a/base:1", BARE)
    assert mine.ready(wish("r.example/a/base:1", pull)) == mounted("r.example/a/base:1")
    assert len(engine.pulled) == pulls


@pytest.mark.parametrize("pull", ["Always", "IfNotPresent", "Never"])
def test_a_missing_image_is_told_at_once(mine: EngineImages, pull: Pull) -> None:
    began = time.monotonic()
    with pytest.raises(NotFoundError, match=r"r\.example/a/none:1"):
        mine.ready(wish("r.example/a/none:1", pull))
    assert time.monotonic() - began < 5


def test_what_was_built_on_this_machine_is_found_by_its_short_name_and_never_pulled(
    mine: EngineImages, engine: Engine
) -> None:
    engine.put(engine.here, "mine:1", BARE)
    engine.put(engine.here, "localhost/other:1", BARE)
    assert mine.ready(wish("mine:1")).reference == "mine:1"
    assert mine.ready(wish("localhost/other:1", "Always")).reference == "localhost/other:1"
    with pytest.raises(NotFoundError, match="no registry to pull it from"):
        mine.ready(wish("localhost/none:1"))
    assert engine.pulled == []


def test_an_image_for_another_machine_is_refused(mine: EngineImages, engine: Engine) -> None:
    engine.put(engine.here, "r.example/a/base:1", BARE, arch="s390x")
    with pytest.raises(UnsupportedError, match="linux/s390x"):
        mine.ready(wish("r.example/a/base:1"))


@pytest.mark.parametrize("image", ["--privileged", "Upper/case", "a b", ""])
def test_what_is_no_name_reaches_no_engine(mine: EngineImages, image: str) -> None:
    with pytest.raises(InvalidFileError, match="not an image reference"):
        mine.ready(wish(image))


def test_files_of_the_host_are_not_a_clients_to_name(mine: EngineImages) -> None:
    with pytest.raises(UnsupportedError, match="in no registry"):
        mine.ready(wish("docker-archive:/etc/shadow"))


def test_that_an_engine_does_not_answer_is_no_missing_image(
    mine: EngineImages, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = ["sh", "-c", "echo Cannot connect to the daemon >&2; exit 1", "--format=x"]
    monkeypatch.setattr(engine, "inspect_argv", lambda name: argv)
    with pytest.raises(HostError, match="Cannot connect"):
        mine.ready(wish("r.example/a/base:1", "Never"))


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Who waits for an image that is being brought."""
    found: list[object] = []
    real = Future.result

    def result(self: Future[Any], timeout: float | None = None) -> Any:
        found.append(self)
        return real(self, timeout)

    monkeypatch.setattr(Future, "result", result)
    return found


def held(engine: Engine, waiting: list[object], count: int, work: Callable[[], Any]) -> list[Any]:
    """As at_once; the pull ends when all wait for it."""
    go = engine.pulls.with_name("go")
    engine.slow = f"until [ -e {go} ]; do sleep 0.02; done"
    with ThreadPoolExecutor(count) as pool:
        asked = [pool.submit(caught, work) for _ in range(count)]
        try:
            until(lambda: len(waiting) >= count)
        finally:
            go.touch()
        return [each.result() for each in asked]


def test_many_that_ask_at_once_share_one_pull(
    mine: EngineImages, engine: Engine, waiting: list[object]
) -> None:
    engine.put(engine.there, "r.example/a/base:1", BARE)
    found = held(engine, waiting, 32, lambda: mine.ready(wish("r.example/a/base:1", "Always")))
    assert found == [mounted("r.example/a/base:1")] * 32
    assert len(engine.pulled) == 1


def test_many_that_ask_at_once_share_a_failure_and_the_next_one_tries_again(
    mine: EngineImages, engine: Engine, waiting: list[object]
) -> None:
    found = held(engine, waiting, 8, lambda: mine.ready(wish("r.example/a/base:1")))
    assert {type(each) for each in found} == {NotFoundError} and len(engine.pulled) == 1
    engine.put(engine.there, "r.example/a/base:1", BARE)
    assert mine.ready(wish("r.example/a/base:1")) == mounted("r.example/a/base:1")


def test_what_takes_too_long_is_told_and_goes_on() -> None:
    together: Together[str] = Together(0.05)
    done, begun = threading.Event(), list[int]()

    def work() -> str:
        begun.append(1)
        done.wait(20)
        return "there"

    for _ in range(2):
        with pytest.raises(NetworkError, match="still being brought"):
            together("name", "r/a:1", work)
    assert begun == [1], "who asks again waits for the rest"
    together.within = 20.0
    done.set()
    assert together("name", "r/a:1", work) == "there"


def test_one_for_whom_no_thread_was_to_be_had_is_told_and_the_next_one_tries_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    together: Together[str] = Together(20.0)

    def refused(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as full:
        full.setattr(threading.Thread, "start", refused)
        with pytest.raises(RuntimeError, match="new thread"):
            together("name", "r/a:1", lambda: "there")
    assert together("name", "r/a:1", lambda: "there") == "there"


def test_a_pull_is_ended_after_its_time(engine: Engine) -> None:
    engine.slow = "sleep 600"
    slow = EngineImages(Settings(pull_within=0.5), "podman")
    began = time.monotonic()
    with pytest.raises(NetworkError, match=r"not here after 0\.5 s"):
        slow.ready(wish("r.example/a/base:1"))
    assert time.monotonic() - began < 10


def test_closing_ends_what_is_being_brought(mine: EngineImages, engine: Engine) -> None:
    engine.slow = "sleep 600"
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(mine.ready, wish("r.example/a/base:1"))
        until(lambda: bool(engine.pulled))
        mine.close()
        assert asked.exception(20) is not None
    mine.close()


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_layer_that_was_given_is_the_one_that_is_mounted(engine: Engine, tmp_path: Path) -> None:
    """And is asked of nobody: a job's nodes cannot make one."""
    engine.put(engine.here, "r.example/a/base:1", BARE)
    given = EngineImages(Settings(layer=str(tmp_path / "given")), "podman")
    with pytest.raises(NotFoundError, match="layer is not at"):
        given.ready(wish("r.example/a/base:1"))
    (tmp_path / "given").mkdir()
    assert f"{tmp_path}/given:/slipworks-agent:O" in given.ready(wish("r.example/a/base:1")).mount


# Bakes


class Baker:
    """Which bakes by writing a name down."""

    def __init__(self, engine: Engine, serving: Sequence[str] = ()) -> None:
        self.engine, self.serving = engine, serving
        self.baked_now: list[str] = []

    def baked(self, base: Origin, *, again: bool = False) -> str | None:
        if str(base) in self.serving:
            return None
        self.baked_now.append(str(base))
        self.engine.put(self.engine.there, "r.example/to/base:tag", BAKED)
        return "r.example/to/base:tag"


def test_where_there_is_a_registry_for_it_a_base_is_baked_and_that_is_pulled(engine: Engine) -> None:
    baker = Baker(engine)
    baking = EngineImages(Settings(bake_to="r.example/to"), "podman", baker=baker)  # type: ignore[arg-type]
    expected = Ready(reference="r.example/to/base:tag", entrypoint=START)
    assert baking.ready(wish("r.example/a/base:1")) == expected
    assert baker.baked_now == ["r.example/a/base:1"] and engine.pulled == ["r.example%to%base:tag"]
    assert baking.ready(wish("r.example/a/base:1")) == expected
    assert len(engine.pulled) == 1, "what was baked is here"


def test_what_serves_by_itself_is_not_baked(engine: Engine) -> None:
    engine.put(engine.here, "r.example/a/here:1", BAKED)
    engine.put(engine.there, "r.example/a/there:1", BAKED)
    baker = Baker(engine, ["r.example/a/there:1"])
    baking = EngineImages(Settings(bake_to="r.example/to"), "podman", baker=baker)  # type: ignore[arg-type]
    for name in ("here", "there"):
        assert baking.ready(wish(f"r.example/a/{name}:1")).reference == f"r.example/a/{name}:1"
    assert baker.baked_now == []


def test_nothing_is_baked_where_nothing_may_be_pulled_or_no_registry_has_it(engine: Engine) -> None:
    engine.put(engine.here, "r.example/a/base:1", BARE)
    engine.put(engine.here, "localhost/own:1", BARE)
    baker = Baker(engine)
    baking = EngineImages(Settings(bake_to="r.example/to"), "podman", baker=baker)  # type: ignore[arg-type]
    assert baking.ready(wish("r.example/a/base:1", "Never")) == mounted("r.example/a/base:1")
    assert baking.ready(wish("localhost/own:1")) == mounted("localhost/own:1")
    assert baker.baked_now == []


# What exists


class Opened:
    """A registry that has one image."""

    def __init__(self, fails: Exception | None = None) -> None:
        self.asked, self.fails = 0, fails

    def opened(self, reference: object, platform: Platform) -> tuple[bytes, bytes, str]:
        self.asked += 1
        if self.fails:
            raise self.fails
        layer = oci.Descriptor(oci.GZIP, f"sha256:{'0' * 64}", 1000)
        described = oci.Descriptor(oci.CONFIG, f"sha256:{'1' * 64}", 10)
        raw = oci.encode(oci.Manifest(described, (layer, layer)))
        return raw, oci.encode({"created": "2024-02-03T04:05:06Z"}), ""


def test_what_a_registry_has_is_asked_for_once() -> None:
    registry = Opened()
    there = InRegistries(lambda host: registry)  # type: ignore[arg-type, return-value]
    for _ in range(3):
        assert there.find("r.example/a/base:1") == ImageFound(size=2000, uploaded="2024-02-03T04:05:06Z")
    assert registry.asked == 1


def test_what_a_registry_has_not_is_asked_for_again_and_what_it_cannot_tell_is_raised() -> None:
    registry = Opened(NotFoundError("no such image"))
    there = InRegistries(lambda host: registry)  # type: ignore[arg-type, return-value]
    assert there.find("r.example/a/base:1") is None and there.find("r.example/a/base:1") is None
    assert registry.asked == 2
    registry.fails = NetworkError("gone")
    with pytest.raises(NetworkError, match="gone"):
        there.find("r.example/a/base:1")


def test_what_the_engine_has_exists(mine: EngineImages, engine: Engine) -> None:
    engine.put(engine.here, "r.example/a/base:1", BARE)
    assert mine.exists("r.example/a/base:1") == ImageFound(size=7, uploaded=MADE)


def test_each_engine_has_its_images(engine: Engine) -> None:
    assert isinstance(images.of(Settings(), "apptainer"), SifImages)
    assert isinstance(images.of(Settings(), "podman"), EngineImages)


def test_a_node_that_has_the_runners_layer_alone_can_load_it() -> None:
    """There is no sqlite3 in it, and none of what a checkout alone has."""
    barred = ("sqlite3", "docker", "spython", "pytest")
    lines = [f"sys.modules[{name!r}] = None" for name in barred]
    parts = ("engine_images", "sif_images", "baking")
    lines += [f"import runner.sandboxes.{part}" for part in parts]
    subprocess.run([sys.executable, "-c", "import sys\n" + "\n".join(lines)], check=True)


def test_what_was_baked_goes_to_a_registry() -> None:
    with pytest.raises(UsageError, match="into a registry"):
        EngineImages(Settings(bake_to="oci:/folder"), "podman")
