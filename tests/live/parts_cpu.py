"""The cpu image of both platforms, made once, and stores of a test's own that share its layers."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from containers import layer, sif
from image_cache.store import Store
from kit.errors import HostError, MissingToolError, NetworkError
from kit.nouns import Image, Platform
from runner import images, planning
from runner.images import Made
from runner.planning import Plan, Wanted
from tests.live.needs import need

HERE = Platform.host()
OTHER = Platform("arm64" if HERE.arch == "amd64" else "amd64")
MAIN = "import sys; from runner.cli import main; sys.exit(main())"


def typed(*words: str) -> list[str]:
    """The command line of `runner image …`."""
    return [sys.executable, "-c", MAIN, "image", *words]


def made(platform: Platform) -> Made:
    """In the user's own store, where other tests find it too, and known to no engine."""
    try:
        return images.make("cpu", platform=str(platform), format="oci", engine="none")
    except (MissingToolError, HostError, NetworkError) as reason:
        need(False, reason.message)
        raise


@pytest.fixture(scope="session")
def cpu() -> Made:
    """The cpu image for this machine."""
    return made(HERE)


@pytest.fixture(scope="session")
def foreign_cpu() -> Made:
    """The cpu image for the other platform, of which nothing could be run here."""
    handlers = [each.name for each in Path("/proc/sys/fs/binfmt_misc").glob("qemu-*")]
    need(not handlers, f"this machine emulates others, so nothing would be proved: {', '.join(handlers)}")
    return made(OTHER)


Shelf = Callable[..., Store]


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shelf:
    """Makes the store of a test's own, named awkwardly, the user's: see `stocked`."""

    def use(*made: Made, layers: bool = True) -> Store:
        sources = [(each, images.store()) for each in made]
        monkeypatch.setenv("SLIPWORKS_CACHE", str(tmp_path / "it's a cache"))
        for each, source in sources:
            stocked(images.store(), each, source, layers=layers)
        return images.store()

    return use


def stocked(store: Store, made: Made, source: Store, *, layers: bool = True, copied: bool = False) -> None:
    """Puts what an image is made of into a store: its base, and its layers where asked for.

    As links, which share owner and mode with the user's own, or copied.
    """
    plan = plan_of(made, source)
    assert plan.base
    put_image(store, source, plan.base, copied)
    keys = [layer.key(plan.layer, plan.target), *(planning.stack_key(each) for each in plan.recipe().stack)]
    for key in keys if layers else ():
        found = source.artifact(key)
        assert found, "the image was made a moment ago"
        link(store, source, found.digest, copied)
        notes(store, source, found.diff_id)
        store.artifacts.put(key, found.descriptor, found.diff_id, found.name)


def plan_of(made: Made, store: Store) -> Plan:
    plan = planning.plan(Wanted(arch="cpu", platform=str(made.image.platform)), store)
    assert plan.recipe().key == made.image.key
    return plan


def put_image(store: Store, source: Store, image: Image, copied: bool) -> Image:
    manifest, config = source.opened(image)
    for digest in (image.digest, *(blob.digest for blob in manifest.blobs)):
        link(store, source, digest, copied)
    for diff_id in config["rootfs"]["diff_ids"]:
        notes(store, source, diff_id)
    raw = source.read(image.digest)
    return store.put_manifest(raw, key=image.key, name=image.name, platform=image.platform)


def link(store: Store, source: Store, digest: str, copied: bool) -> None:
    old, new = source.blob(digest), store.blob(digest)
    new.parent.mkdir(parents=True, exist_ok=True)
    if new.exists():
        return
    if not copied:
        with contextlib.suppress(OSError):  # another file system
            os.link(old, new)
            return
    shutil.copyfile(old, new)


def notes(store: Store, source: Store, diff_id: str) -> None:
    for kind in ("inventory", "packages"):
        if raw := source.note(diff_id, kind):
            store.put_note(diff_id, kind, raw)


@pytest.fixture
def quick_sifs(monkeypatch: pytest.MonkeyPatch) -> None:
    """SIFs are packed with less zeal, in a third of the time."""
    full = sif.squash

    def quick(at_once: int = 1) -> str:
        return full(at_once).replace("-Xcompression-level 8", "-Xcompression-level 1")

    monkeypatch.setattr(sif, "squash", quick)
