"""Engines for real: a tiny recipe is built, taken into a store, loaded and run by each of them."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import structs

from containers import engine
from containers.engine import Build, Engine
from containers.secrets import BuildSecrets
from containers.workplace import config_digest
from image_cache.store import Store
from kit.errors import (
    NoSpaceError,
    QuotaError,
    SlipworksError,
)
from kit.nouns import Image, Platform, key_of
from tests.live.needs import need
from tests.live.parts_engines import Registry
from tests.live.tiny import (
    ANSWERS,
    BASE,
    CONTAINERFILE,
    CREDENTIAL,
    built,
    everything,
    pulled,
    taken_in,
    tiny_recipe,
)

pytestmark = pytest.mark.live


@pytest.fixture(params=["podman", "buildah", "docker"])
def oci_engine(request: pytest.FixtureRequest, tiny_store: Store) -> Engine:
    name = request.param
    request.getfixturevalue("private_dockerd" if name == "docker" else "private_storage")
    need(shutil.which(name), f"{name} is not installed")
    made = engine.get(name, tiny_store.write_docker_archive)
    assert made.check()[0].isdigit()
    return made


def test_builds_loads_and_keeps_no_secret(
    oci_engine: Engine, tiny_base: Image, tiny_store: Store, build_secrets: BuildSecrets, open_folder: Path
) -> None:
    out = open_folder / f"out of {oci_engine.name}, it's: 1.tar"
    said = built(oci_engine, tiny_base, build_secrets, out)
    assert said, "no progress was told"
    assert not list(open_folder.glob(".out of*")), "a temporary file was left"
    image = taken_in(tiny_store, oci_engine.name, out)
    assert image.labels.items() >= tiny_recipe().labels.items()
    assert CREDENTIAL not in "\n".join(said)
    whole = everything(image)
    assert b"from the context\na certificate\n" in whole, "the layer was not looked into"
    assert CREDENTIAL.encode() not in whole
    assert b"/run/secrets/" not in layer_names(image)

    reference = f"localhost/slipworks/test-{oci_engine.name}:1"
    assert oci_engine.has(reference) is None
    oci_engine.load(image, reference)
    assert oci_engine.has(reference) == config_digest(image)
    before = time.monotonic()
    oci_engine.load(image, reference)
    assert time.monotonic() - before < 1


def layer_names(image: Image) -> bytes:
    names: list[str] = []
    for blob in (image.path / "blobs/sha256").iterdir():
        if tarfile.is_tarfile(blob):
            with tarfile.open(blob) as tar:
                names += [f"/{member.name.removeprefix('./')}" for member in tar if member.isfile()]
    return "\n".join(names).encode()


def test_a_foreign_image_is_built_without_running_foreign_code(
    oci_engine: Engine, tiny_base: Image, tiny_root: Path, tiny_store: Store, build_secrets: BuildSecrets,
    tmp_path: Path,
) -> None:  # fmt: skip
    """The busybox in the "foreign" base is the host's: what matters is that nothing asks to run it."""
    foreign = Platform("arm64" if Platform.host().arch == "amd64" else "amd64")
    reference = f"localhost/slipworks/test-foreign:{foreign.arch}"
    root = tmp_path / "root.tar"
    shutil.copyfile(tiny_root, root)
    with tarfile.open(root, "a") as tar:  # equal layers would come from buildah's cache, platform and all
        tar.addfile(tarfile.TarInfo("foreign"))
    base = tiny_store.put_root(
        root, key=key_of({"base": str(foreign)}), name="base-foreign", platform=foreign
    )
    recipe = tiny_recipe(
        platform=foreign,
        base=structs.replace(tiny_recipe().base, reference=reference),
        containerfile=CONTAINERFILE.replace(f"FROM {BASE}", f"FROM --platform={foreign} {reference}"),
    )
    out = tmp_path / "out"
    order = Build(recipe=recipe, out=out, base=base, more_bases={BASE: tiny_base}, secrets=build_secrets)
    oci_engine.build(order, lambda line: None)
    image = tiny_store.put_archive(
        out, key=key_of({"foreign by": oci_engine.name}), name=f"foreign-{oci_engine.name}", platform=foreign
    )
    assert image.platform == foreign
    assert b"from the context\na certificate\n" in everything(image)


@pytest.mark.parametrize("status", [401, 404, 503])
def test_what_a_registry_answers_has_a_kind(
    oci_engine: Engine, refusing_registry: Registry, tmp_path: Path, status: int
) -> None:
    refused(oci_engine, refusing_registry.reference(status), tmp_path / "out", ANSWERS[status])


@pytest.mark.usefixtures("private_dockerd")
def test_a_used_up_quota_has_a_kind(refusing_registry: Registry, tmp_path: Path) -> None:
    """By docker alone: podman and buildah ask for a minute first; their words are in tests/unit/recorded."""
    need(shutil.which("docker"), "docker is not installed")
    refused(engine.get("docker"), refusing_registry.reference(429), tmp_path / "out", QuotaError)


def refused(made: Engine, reference: str, out: Path, kind: type[SlipworksError]) -> None:
    with pytest.raises(kind) as raised:
        made.build(Build(recipe=pulled(reference), out=out), lambda line: None)
    assert raised.value.hint
    assert not out.exists()


def test_a_failed_step_ends_in_its_last_lines(oci_engine: Engine, tiny_base: Image, tmp_path: Path) -> None:
    recipe = tiny_recipe(containerfile=f"FROM {BASE}\nRUN echo the reason >&2; exit 3\n")
    with pytest.raises(SlipworksError, match="the reason") as raised:
        built(oci_engine, tiny_base, BuildSecrets(), tmp_path / "out", recipe)
    assert raised.value.code == 40
    assert not list(tmp_path.iterdir())


def test_an_interrupted_build_removes_its_own_working_containers_alone(
    oci_engine: Engine, tiny_base: Image, build_secrets: BuildSecrets, tmp_path: Path
) -> None:
    """Another build goes on meanwhile, in the same storage and from the same base."""
    other, own = (
        tiny_recipe(containerfile=f"FROM {BASE}\nRUN echo {oci_engine.name} {word}; exec sleep {seconds}\n")
        for word, seconds in (("other", 4), ("own", 600))
    )
    under_way, failures = threading.Event(), []

    def build_other() -> None:
        order = Build(recipe=other, out=tmp_path / "other", base=tiny_base)
        try:
            oci_engine.build(order, lambda line: under_way.set() if line.endswith("other") else None)
        except SlipworksError as failure:
            failures.append(failure)

    def interrupt(line: str) -> None:
        if line.endswith("own"):
            raise KeyboardInterrupt

    thread = threading.Thread(target=build_other)
    thread.start()
    assert under_way.wait(60)
    with pytest.raises(KeyboardInterrupt):
        order = Build(recipe=own, out=tmp_path / "own", base=tiny_base, secrets=build_secrets)
        oci_engine.build(order, interrupt)
    left = working_containers(oci_engine)
    thread.join()
    assert not failures
    assert left == (0 if oci_engine.name == "docker" else 1)
    assert working_containers(oci_engine) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def working_containers(made: Engine) -> int:
    """podman's and buildah's; BuildKit has none that outlive a build."""
    if made.name == "docker":
        return 0
    words = {"podman": ["podman", "ps", "--all", "--external"], "buildah": ["buildah", "containers"]}
    argv = [*words[made.name], "--noheading"]
    return len(subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    need(os.geteuid() == 0, "a small file system needs root")
    disk = tmp_path / "small disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], check=True)
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_full_disk_is_named(
    oci_engine: Engine, tiny_base: Image, build_secrets: BuildSecrets, small_disk: Path
) -> None:
    with pytest.raises(NoSpaceError) as raised:
        built(oci_engine, tiny_base, build_secrets, small_disk / "out")
    assert raised.value.hint
    assert not list(small_disk.iterdir())
