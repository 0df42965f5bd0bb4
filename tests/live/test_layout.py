"""Real engines read the store's layout and archives."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from image_cache import garbage, gc
from image_cache.store import Store
from kit.errors import NoSpaceError
from kit.nouns import Image, Platform
from tests.live.needs import need
from tests.unit.parts_images import tar_of

pytestmark = pytest.mark.live
AMD64 = Platform("amd64")


@pytest.fixture
def engine(request: pytest.FixtureRequest) -> Iterator[list[str]]:
    """An engine with storage of its own, as the beginning of an argv."""
    need(shutil.which(request.param), f"{request.param} is not installed")
    # Not in tmp_path: podman takes no run root of more than 50 characters.
    with tempfile.TemporaryDirectory() as short:
        yield [
            request.param,
            "--root",
            f"{short}/root",
            "--runroot",
            f"{short}/run",
            "--storage-driver",
            "vfs",
        ]


def done(argv: list[str]) -> str:
    ended = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def pulled(engine: list[str], store: Store, image: Image, tmp_path: Path) -> str:
    """Through a link with a plain name: podman makes a name of the path, and refuses quotes in that."""
    link = tmp_path / f"layout-{len(list(tmp_path.iterdir()))}"
    link.symlink_to(store.root)
    return done([*engine, "pull", "-q", f"oci:{link}:{image.name}"]).split()[-1]


@pytest.mark.parametrize("engine", ["podman", "buildah"], indirect=True)
def test_engines_read_the_layout(engine: list[str], store: Store, image: Image, tmp_path: Path) -> None:
    identity = pulled(engine, store, image, tmp_path)
    assert store.opened(image)[0].config.digest == f"sha256:{identity}"


def loaded(engine: list[str], store: Store, image: Image, out: Path) -> str:
    store.write_docker_archive(image, out)
    return done([*engine, "pull", "-q", f"docker-archive:{out}"]).split()[-1]


@pytest.mark.parametrize("engine", ["podman", "buildah"], indirect=True)
def test_engines_load_the_docker_archive(
    engine: list[str], store: Store, image: Image, tmp_path: Path
) -> None:
    identity = loaded(engine, store, image, tmp_path / "saved.tar")
    assert store.opened(image)[0].config.digest == f"sha256:{identity}"


def test_a_full_disk_says_what_would_free_space(tmp_path: Path) -> None:
    need(os.geteuid() == 0, "a small file system needs root")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", tmp_path], check=True)
    try:
        store = Store(tmp_path / "store")
        first = store.put_tar("a" * 64, [tar_of({"x": os.urandom(3_000_000)})])
        with pytest.raises(NoSpaceError, match="no space left") as young:
            store.put_tar("b" * 64, (tar_of({"x": os.urandom(4_000_000)}) for _ in "x"))
        assert young.value.hint == f"df -h {store.blobs}"  # nothing is old enough to go
        for path in store.root.rglob("*"):
            os.utime(path, (0, 0))
        with pytest.raises(NoSpaceError) as old:
            store.put_tar("b" * 64, [tar_of({"x": os.urandom(4_000_000)})])
        assert old.value.hint == "runner image gc  # would free 3 MB"
        assert store.artifact("b" * 64) is None and not list(store.root.rglob(".*"))
        assert [path.name for path in store.blobs.iterdir()] == [first.path.name]
        gc.collect(store, garbage.plan(store, 14))
        store.put_tar("b" * 64, [tar_of({"x": os.urandom(4_000_000)})])
    finally:
        subprocess.run(["umount", tmp_path], check=True)
