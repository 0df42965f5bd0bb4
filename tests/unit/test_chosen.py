"""Which image a job runs in, and when it is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from image_cache import transfer
from image_cache.store import Store
from kit import say
from kit.errors import (
    HashMismatchError,
    NetworkError,
    NotFoundError,
    UnknownNameError,
    UnsupportedError,
    UsageError,
)
from kit.nouns import Image, Platform
from runner import chosen, foreseen, images, mounted_layer, node_platforms, own_store, record, trusted
from runner.foreseen import Foreseen
from runner.job import Job
from slurm import clusters
from slurm.clusters import Cluster
from tests.unit.parts_images import AMD64, KEY

GENERIC = clusters.load("generic")
NAME = f"cpu-cpu-amd64-{KEY[:12]}"


def job(**said: object) -> Job:
    return Job(**{"name": "j", "run": "true", "arch": "cpu", **said})  # type: ignore[arg-type]


@pytest.fixture
def shop(store: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The user's own store, an image that is foreseen, and a layer that is made at once."""
    monkeypatch.setenv("SLIPWORKS_CACHE", str(store.root.parent).replace("\n", " "))
    monkeypatch.setattr(images, "store", lambda: store)
    monkeypatch.setattr(own_store, "store", lambda: store)
    told = Foreseen(state="", name=NAME, key=KEY, platform="linux/amd64", driver_floor="580")
    monkeypatch.setattr(foreseen, "image", lambda *asked: told)
    monkeypatch.setattr(mounted_layer, "path_of", lambda store, platform, engine: Path(f"/layer.{engine}"))
    monkeypatch.setattr(mounted_layer, "made", mounted_layer.path_of)
    monkeypatch.setattr(say, "_said", set())
    return store


def sif(store: Store, tmp_path: Path) -> Image:
    """In the store, with its record beside it."""
    (tmp_path / "made.sif").write_bytes(b"a squashfs, say")
    image = store.put_sif(tmp_path / "made.sif", key=KEY, name=NAME, platform=AMD64)
    told = record.ImageRecord(name=NAME, key=KEY, platform=AMD64)
    record.beside_sif(image.path, record.with_sif(told, image, "1.4"), None)
    return image


def test_neither_job_nor_profile_names_one(shop: Store) -> None:
    with pytest.raises(UsageError, match="names no arch"):
        chosen.of(job(arch=None), GENERIC, "apptainer", dry=True)
    assert chosen.arch_of(job(arch=None), replace(GENERIC, arch="gh200")) == "gh200"


def test_the_engine_is_the_one_asked_for_else_the_profiles_else_what_the_image_needs() -> None:
    podman = replace(GENERIC, engines=("podman", "apptainer"))
    assert chosen.engine_of(job(), podman, None) == "podman"
    assert chosen.engine_of(job(), podman, "docker") == "docker"
    assert chosen.engine_of(job(arch=None, image="/x.sif"), podman, None) == "apptainer"
    with pytest.raises(UnsupportedError, match="no SIF"):
        chosen.engine_of(job(arch=None, image="/x.sif"), podman, "podman")
    with pytest.raises(UnsupportedError, match="runs none"):
        chosen.engine_of(job(), podman, "buildah")
    with pytest.raises(UnknownNameError, match="podmen"):
        chosen.engine_of(job(), podman, "podmen")


@pytest.mark.parametrize("engine", ["apptainer", "podman"])
def test_an_image_that_is_not_built_has_a_name_and_is_refused(shop: Store, engine: str) -> None:
    found = chosen.of(job(), GENERIC, engine, dry=True)
    assert NAME in found.chosen.reference and found.chosen.driver_floor == "580"
    with pytest.raises(NotFoundError) as failure:
        chosen.of(job(line="cu13"), GENERIC, engine, dry=False)
    kind = "sif" if engine == "apptainer" else "oci"
    assert f"not built as {kind}" in failure.value.message
    foreign = " PLATFORM=linux/amd64" if Platform.host() != AMD64 else ""
    assert failure.value.hint == f"make image ARCH=cpu LINE=cu13{foreign} FORMAT={kind}"


def test_a_built_sif_is_read_once(shop: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = sif(shop, tmp_path)
    found = chosen.of(job(), GENERIC, "apptainer", dry=False)
    assert found.chosen.digest == image.digest and found.chosen.layer is None
    monkeypatch.setattr(trusted, "digest_file", lambda path: pytest.fail("read again"))
    assert chosen.of(job(), GENERIC, "apptainer", dry=False) == found


def test_bytes_that_have_changed_are_refused(shop: Store, tmp_path: Path) -> None:
    image = sif(shop, tmp_path)
    chosen.of(job(), GENERIC, "apptainer", dry=False)
    image.path.write_bytes(b"a squashfs, SAY")
    with pytest.raises(HashMismatchError, match="hashes to"):
        chosen.of(job(), GENERIC, "apptainer", dry=False)


def test_a_record_of_another_image_is_refused(shop: Store, tmp_path: Path) -> None:
    image = sif(shop, tmp_path)
    other = record.Sif(file=image.path.name, digest="sha256:" + "0" * 64, size=15, apptainer="", made_of="")
    record.beside_sif(image.path, record.ImageRecord(name=NAME, key=KEY, platform=AMD64, sif=other), None)
    with pytest.raises(HashMismatchError, match="the record is of another image"):
        chosen.of(job(), GENERIC, "apptainer", dry=False)


def test_without_a_record_there_is_one_warning(
    shop: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = sif(shop, tmp_path)
    record.beside(image.path, record.RECORD_ENDING).unlink()
    for _ in range(2):
        chosen.of(job(), GENERIC, "apptainer", dry=False)
    assert capsys.readouterr().err.count("has no record") == 1


def test_nodes_fetch_an_oci_image_by_its_id(shop: Store, image: Image) -> None:
    found = chosen.of(job(), GENERIC, "podman", dry=False)
    assert found.image and found.image.digest == image.digest
    assert found.chosen.reference == shop.opened(image)[0].config.digest.removeprefix("sha256:")


def test_nodes_load_an_archive_into_docker(shop: Store, image: Image) -> None:
    found = chosen.of(job(), GENERIC, "docker", dry=False).chosen
    assert found.archive and Path(found.archive).is_file() and found.reference == f"{image.name}:latest"


REFERENCE = "registry.example.org/team/train"


@pytest.fixture
def registry(shop: Store, image: Image, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Answers with the one image, and notes what was asked for; "away" as an element: it is not reached."""
    asked: list[str] = []

    def pull(reference: str, platform: Platform, store: Store, progress: object) -> Image:
        if "away" in asked:
            raise NetworkError("no route to registry.example.org")
        asked.append(reference)
        return image

    monkeypatch.setattr(transfer, "pull", pull)
    return asked


def test_any_image_has_the_layer_mounted(shop: Store, registry: list[str]) -> None:
    wanted = job(arch=None, image=f"{REFERENCE}:v1")
    dry = chosen.of(wanted, GENERIC, "podman", dry=True).chosen
    assert not registry and dry.reference == f"{REFERENCE}:v1" and dry.layer == "/layer.podman"
    assert chosen.of(wanted, GENERIC, "apptainer", dry=True).chosen.reference == f"docker://{REFERENCE}:v1"
    found = chosen.of(wanted, GENERIC, "podman", dry=False)
    assert registry == [f"{REFERENCE}:v1"] and found.chosen.layer == "/layer.podman" and found.image


def test_a_digest_is_asked_for_once_and_a_tag_each_time(shop: Store, registry: list[str]) -> None:
    pinned = f"{REFERENCE}@sha256:{'1' * 64}"
    for reference in (pinned, pinned, f"{REFERENCE}:v1", f"{REFERENCE}:v1"):
        chosen.pulled(reference, AMD64, shop)
    assert registry == [pinned, f"{REFERENCE}:v1", f"{REFERENCE}:v1"]


def test_a_registry_that_is_away(
    shop: Store, registry: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = chosen.pulled(f"{REFERENCE}:v1", AMD64, shop)
    registry.append("away")
    assert chosen.pulled(f"{REFERENCE}:v1", AMD64, shop) == before
    assert "which was pulled before" in capsys.readouterr().err
    with pytest.raises(NetworkError):
        chosen.pulled(f"{REFERENCE}:v2", AMD64, shop)


def test_a_sif_that_is_not_there(shop: Store) -> None:
    wanted = job(arch=None, image="/nowhere/x.sif")
    assert chosen.of(wanted, GENERIC, "apptainer", dry=True).chosen.reference == "/nowhere/x.sif"
    with pytest.raises(NotFoundError, match="no SIF"):
        chosen.of(wanted, GENERIC, "apptainer", dry=False)


def test_the_platform_is_that_of_the_clusters_nodes() -> None:
    arm: Cluster = replace(GENERIC, arch="gh200")
    expected = None if Platform.host() == Platform("arm64") else "linux/arm64"
    assert node_platforms.common("cpu", arm) == expected
    assert node_platforms.common("cpu", GENERIC) is None


@pytest.mark.parametrize("dry", [True, False])
def test_an_arch_whose_images_do_not_run_there_is_refused(shop: Store, dry: bool) -> None:
    vista = clusters.load("vista")
    for arch in ("h100", "mig"):
        with pytest.raises(UnsupportedError, match=f"arch {arch} are for linux/amd64, .* are linux/arm64"):
            chosen.of(job(arch=arch), vista, "apptainer", dry=dry)
    with pytest.raises(UnsupportedError, match=r"linux/arm64, .* are linux/amd64"):
        chosen.of(job(arch="gh200"), replace(GENERIC, arch="h100"), "apptainer", dry=dry)


def test_a_sif_whose_platform_the_nodes_have_not_is_refused() -> None:
    arm: Cluster = replace(GENERIC, arch="gh200")
    with pytest.raises(UnsupportedError, match=r"x\.sif is for linux/amd64, and the nodes .* linux/arm64"):
        node_platforms.demand("/x.sif", AMD64, arm)
    node_platforms.demand("/x.sif", Platform("arm64"), arm)
    node_platforms.demand("/x.sif", AMD64, GENERIC)


def test_the_line_is_the_jobs_else_the_clusters_for_its_own_arch() -> None:
    isambard = clusters.load("isambard")
    mine = Job(name="j", run=("true",))
    assert chosen.line_of(mine, "gh200", isambard) == "cu12"
    assert chosen.line_of(replace(mine, line="cu13"), "gh200", isambard) == "cu13"
    assert chosen.line_of(replace(mine, arch="cpu"), "cpu", isambard) is None
    assert chosen.line_of(mine, "gh200", clusters.load("vista")) is None
