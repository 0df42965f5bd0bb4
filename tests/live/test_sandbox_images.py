"""Images for sandboxes by real engines and a real registry: pulled, baked, made a SIF, or missing at once."""

from __future__ import annotations

import json
import shutil
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from containers import engine, sif_parts
from containers.engine import Engine
from image_cache import bake
from image_cache.bake import Added
from kit import process
from kit.errors import AuthError, NotFoundError
from runner import agent_layer, own_store, sandbox
from runner.sandbox import Start
from runner.sandboxes import images
from runner.sandboxes.baking import Baker
from runner.sandboxes.engine_images import EngineImages
from runner.sandboxes.nouns import Pull, Ready, Wish
from runner.sandboxes.settings import Settings
from tests.live.needs import need
from tests.live.parts_bake import artifact
from tests.live.parts_bases import Zoo, put
from tests.live.parts_registry import registry
from tests.live.parts_roots import NATIVE

pytestmark = pytest.mark.live
COMMAND = ("/usr/local/bin/openhands-agent-server", "--port", "60000")
SOON = 30.0  # seconds in which a missing image is told: clients would wait for 60 of nothing


def wish(image: str, pull: Pull = "IfNotPresent") -> Wish:
    return Wish(session="s", image=image, command=COMMAND, pull=pull, user=10001)


@pytest.fixture
def podman(private_storage: Path) -> Engine:
    need(shutil.which("podman"), "podman is not installed")
    return engine.get("podman")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is known of registries' images, and SIFs, apart from this user's own."""
    monkeypatch.setenv("SLIPWORKS_CACHE", str(tmp_path / "it's a cache"))
    return tmp_path / "it's a cache"


def forgotten(podman: Engine, image: str) -> None:
    if podman.has(image):
        process.run(podman.remove_image_argv(image), what=f"remove {image}")


def at_once(count: int, work: Callable[[], Any]) -> list[Any]:
    gate = threading.Barrier(count)

    def one() -> Any:
        gate.wait(20)
        return work()

    with ThreadPoolExecutor(count) as pool:
        return [each.result() for each in [pool.submit(one) for _ in range(count)]]


# Podman


def test_a_base_with_an_entrypoint_of_its_own_serves_by_the_layer_that_is_mounted(
    agent: object, podman: Engine, zoo: Zoo, registry_host: str, tmp_path: Path
) -> None:
    """All that was made of the wish, as the engine takes it: the user is the image's, not 10001."""
    base = put(zoo("non-root"), registry_host, "sandboxes/non-root")
    found = images.of(Settings(), "podman").ready(wish(base))
    assert found.reference == base and found.mount and not found.entrypoint
    start = Start(engine=podman, image=found.reference, entrypoint=False, mount=found.mount,
                  command=found.command, deadline=180.0)  # fmt: skip
    with sandbox.started(start, tmp_path) as running:
        ran = running.agent.command("id -u; echo $FROM_BASE")
    assert (ran.code, ran.out) == (0, "1000\nit's here\n"), ran.err


def test_policy_and_what_comes_of_a_tag_that_moved(podman: Engine, zoo: Zoo, registry_host: str) -> None:
    name = put(zoo("busybox"), registry_host, "sandboxes/moving")
    forgotten(podman, name)
    mine = images.of(Settings(layer="/"), "podman")
    with pytest.raises(NotFoundError, match="pull policy is Never"):
        mine.ready(wish(name, "Never"))
    found = mine.exists(name)
    assert found and found.size > 100_000, "of a registry's, before anybody pulled it"
    assert mine.ready(wish(name)).reference == name
    before = podman.has(name)
    assert before and mine.ready(wish(name, "Never")).reference == name
    put(zoo("non-root"), registry_host, "sandboxes/moving")
    assert mine.ready(wish(name)).reference == name and podman.has(name) == before
    assert mine.ready(wish(name, "Always")).reference == name and podman.has(name) != before
    here = mine.exists(name)
    assert here and here.uploaded


@pytest.mark.parametrize("pull", ["IfNotPresent", "Always"])
def test_a_missing_image_is_told_at_once_by_podman(podman: Engine, registry_host: str, pull: Pull) -> None:
    mine = images.of(Settings(), "podman")
    began = time.monotonic()
    for name in ("sandboxes/never:1", "sandboxes/moving:never"):
        with pytest.raises(NotFoundError, match=f"{registry_host}/{name}"):
            mine.ready(wish(f"{registry_host}/{name}", pull))
    assert time.monotonic() - began < SOON
    assert mine.exists(f"{registry_host}/sandboxes/never:1") is None


def test_a_registry_that_lets_nobody_in_is_no_missing_image(
    podman: Engine, locked_registry_host: str
) -> None:
    mine, name = images.of(Settings(), "podman"), f"{locked_registry_host}/some/base:1"
    with pytest.raises(AuthError, match=locked_registry_host):
        mine.ready(wish(name))
    with pytest.raises(AuthError):
        mine.exists(name)


# Bakes


@pytest.fixture
def hollow(tmp_path: Path) -> Added:
    """What is put on a base in place of the layer, whose bytes prove nothing here."""
    folder = agent_layer.spec().folder
    return Added(
        platform=NATIVE, gzip=artifact(tmp_path, f"{folder.lstrip('/')}/.nothing", 10),
        entrypoint=agent_layer.start(folder),
    )  # fmt: skip


def tags(host: str, repository: str) -> list[str]:
    with urllib.request.urlopen(f"http://{host}/v2/{repository}/tags/list", timeout=30) as answer:
        found: list[str] = json.load(answer)["tags"]
    return found


def test_many_that_ask_at_once_for_a_base_share_one_bake(
    podman: Engine, zoo: Zoo, registry_host: str, cache: Path, hollow: Added, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And whoever comes later, another server too, finds what was baked."""
    base = put(zoo("entrypoint"), registry_host, "sandboxes/to-bake")
    done: list[bake.Moved] = []
    real = bake.do

    def noted(*words: Any) -> bake.Moved:
        done.append(real(*words))
        return done[-1]

    monkeypatch.setattr(bake, "do", noted)
    to = f"{registry_host}/on-demand"

    def server() -> EngineImages:
        baker = Baker(to, NATIVE, own_store.store(), added=hollow)
        return EngineImages(Settings(bake_to=to), "podman", baker=baker)

    first = server()
    found = at_once(16, lambda: first.ready(wish(base)))
    assert len(done) == 1 and not done[0].there
    (tag,) = tags(registry_host, "on-demand/sandboxes/to-bake")
    reference = f"{to}/sandboxes/to-bake:{tag}"
    assert found == [Ready(reference=reference, entrypoint=agent_layer.start("/slipworks-agent"))] * 16
    assert podman.has(reference) and not podman.has(base), "what was baked is all that was pulled"
    assert server().ready(wish(base)) == found[0]
    assert len(done) == 2 and done[1].there
    assert first.ready(wish(base)) == found[0] and len(done) == 2
    assert first.ready(wish(reference)) == found[0], "a baked one is as it is"


def test_what_cannot_be_baked_for_it_is_missing_is_told_at_once(
    podman: Engine, registry_host: str, cache: Path, hollow: Added
) -> None:
    to = f"{registry_host}/on-demand"
    baker = Baker(to, NATIVE, own_store.store(), added=hollow)
    mine = EngineImages(Settings(bake_to=to), "podman", baker=baker)
    began = time.monotonic()
    with pytest.raises(NotFoundError, match="sandboxes/never:1"):
        mine.ready(wish(f"{registry_host}/sandboxes/never:1"))
    assert time.monotonic() - began < SOON


# Docker


def test_docker_pulls_and_tells_what_is_missing(
    private_dockerd: str, zoo: Zoo, registry_host: str, tmp_path: Path
) -> None:
    base = put(zoo("non-root"), registry_host, "sandboxes/non-root")
    mine = images.of(Settings(layer=str(tmp_path)), "docker")
    found = mine.ready(wish(base))
    assert found.reference == base and found.mount[0] == "--mount" and "readonly" in found.mount[1]
    assert mine.ready(wish(base, "Never")) == found
    here = mine.exists(base)
    assert here and here.size > 100_000 and here.uploaded
    began = time.monotonic()
    for pull in ("IfNotPresent", "Never"):
        with pytest.raises(NotFoundError, match="sandboxes/never:1"):
            mine.ready(wish(f"{registry_host}/sandboxes/never:1", pull))
    assert time.monotonic() - began < SOON


# Apptainer


@pytest.fixture
def short_lived(tmp_path: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    """A registry, and what ends it."""
    served = registry(tmp_path / "registry")
    host = served.__enter__()
    ended = threading.Event()

    def end() -> None:
        if not ended.is_set():
            ended.set()
            served.__exit__(None, None, None)

    yield host, end
    end()


def test_a_reference_becomes_a_sif_once_and_is_found_without_a_registry(
    short_lived: tuple[str, Callable[[], None]], zoo: Zoo, cache: Path, tmp_path: Path
) -> None:
    need(shutil.which("apptainer"), "apptainer is not installed")
    host, end = short_lived
    base = put(zoo("non-root"), host, "sandboxes/non-root")
    given = tmp_path / "layer.sqfs"
    given.touch()
    settings = Settings(layer=str(given))
    mine = images.of(settings, "apptainer")
    found = at_once(4, lambda: mine.ready(wish(base)))
    path = Path(found[0].reference)
    assert found == [
        Ready(reference=str(path), mount=("--bind", f"{given}:/slipworks-agent:image-src=/"),
              command=agent_layer.start("/slipworks-agent"), user="1000:1000", workdir="/home/worker")
    ] * 4  # fmt: skip
    assert sif_parts.root(path).arch == NATIVE.arch
    assert [each.name for each in path.parent.glob("*.sif")] == [path.name]
    assert not list((cache / "scratch").glob("*")), "no layer stays"
    began = time.monotonic()
    with pytest.raises(NotFoundError, match="sandboxes/never:1"):
        mine.ready(wish(f"{host}/sandboxes/never:1"))
    assert time.monotonic() - began < SOON
    end()
    later = images.of(settings, "apptainer")
    for pull in ("IfNotPresent", "Never"):
        assert later.ready(wish(base, pull)) == found[0]
    assert later.ready(wish(str(path))) == found[0]
    exists = later.exists(base)
    assert exists and exists.size == path.stat().st_size


def test_a_baked_image_needs_no_layer_as_a_sif(standin: str, cache: Path) -> None:
    need(shutil.which("apptainer"), "apptainer is not installed")
    found = images.of(Settings(layer="/nowhere"), "apptainer").ready(wish(standin))
    assert found.mount == () and found.entrypoint == ()
    assert found.command == agent_layer.start("/slipworks-agent") and found.user == "root"
