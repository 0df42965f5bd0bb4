"""The cpu image with every engine: loaded, run, as a SIF, and read from the store where no engine has it."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from pathlib import Path

import pytest

from containers import engine as engines
from containers.engine import ContainerRun, Engine
from containers.engines.apptainer import Apptainer
from containers.findings import Report
from containers.secrets import gathered
from image_cache.store import Store
from kit import say
from kit.errors import SlipworksError
from kit.nouns import Image
from runner import building, cli, images, proof
from runner.images import Made
from tests.live.needs import need
from tests.live.parts_cpu import OTHER, Shelf, stocked
from tests.live.parts_engines import User
from tests.live.test_images import assert_recorded_with_sif, recorded

pytestmark = [pytest.mark.live, pytest.mark.timeout(900)]
LOOK = """set -e
python -c 'import sys, ray, numpy; print(sys.prefix, sys.executable)'
readlink -f /opt/stack/bin/python
ray --version
wandb --version
/slipworks/bin/runner --version
"""
SEEN = ("/opt/stack /opt/stack/bin/python", "/usr/bin/python3.13", "ray, version 2.", "wandb, version ",
        "runner ")  # fmt: skip


def able(name: str) -> Engine:
    found = engines.get(name, images.store().write_docker_archive)
    try:
        found.check()
    except SlipworksError as reason:
        need(False, reason.message)
    return found


def assert_runs(engine: Engine, reference: str) -> None:
    """The stack's interpreter finds the stack, scripts find their interpreter, and the runner is there."""
    argv = engine.run_argv(ContainerRun(image=reference, argv=("sh", "-c", LOOK)))
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(SEEN), done.stdout
    assert all(line.startswith(seen) for line, seen in zip(lines, SEEN, strict=True)), done.stdout


def test_podman(cpu: Made, shelf: Shelf, private_storage: Path) -> None:
    podman = able("podman")
    shelf(cpu)
    assert_runs(podman, images.make("cpu", engine="podman").reference)


def test_docker(cpu: Made, shelf: Shelf, private_dockerd: str) -> None:
    docker = able("docker")
    shelf(cpu)
    assert_runs(docker, images.make("cpu", engine="docker").reference)


def test_buildah(cpu: Made, shelf: Shelf, private_storage: Path) -> None:
    buildah = able("buildah")
    store = shelf(cpu)
    made = images.make("cpu", engine="buildah")
    assert buildah.has(made.reference) == store.opened(made.image)[0].config.digest


def test_a_foreign_image_goes_to_an_engine_that_is_named(
    foreign_cpu: Made, shelf: Shelf, private_storage: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    podman, store = able("podman"), shelf(foreign_cpu)
    monkeypatch.setattr(engines, "FIRST", ("podman",))
    monkeypatch.setattr(say, "_said", set())
    left = images.make("cpu", platform=str(OTHER))
    assert (left.engine, left.reference) == (None, f"oci:{store.root}:{left.image.name}")
    assert "podman is not given it" in capsys.readouterr().err
    assert podman.has(images.reference_of(left.recipe, podman)) is None
    named = images.make("cpu", platform=str(OTHER), engine="podman")
    assert podman.has(named.reference) == store.opened(named.image)[0].config.digest


def test_what_no_engine_has_is_read_from_the_store(cpu: Made, private_storage: Path, tmp_path: Path) -> None:
    """By the address that is the answer. podman makes a name of it, and wants no quotes in that."""
    podman = able("podman")
    store = Store(tmp_path / "plain/images")
    stocked(store, cpu, images.store())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLIPWORKS_CACHE", str(tmp_path / "plain"))
        reference = images.make("cpu", engine="none").reference
    assert reference.startswith(f"oci:{store.root}:")
    identity = told(*podman.command(), "pull", "--quiet", reference).split()[-1]  # type: ignore[attr-defined]
    assert f"sha256:{identity}" == store.opened(cpu.image)[0].config.digest
    if shutil.which("skopeo"):
        assert cpu.image.key in told("skopeo", "inspect", reference)


def told(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.usefixtures("quick_sifs")
def test_a_sif_that_an_ordinary_user_runs(cpu: Made, shelf: Shelf, ordinary_user: User) -> None:
    able("apptainer")
    store = shelf(cpu)
    made = images.make("cpu", format="sif")
    assert made.reference == str(store.sif_path(made.image.name))
    assert_recorded_with_sif(store, made)
    copied = ordinary_user.folder / "converted.sif"
    shutil.copyfile(made.reference, copied)
    shutil.chown(copied, ordinary_user.name)
    ordinary_user.do(lambda: assert_runs(Apptainer(), str(copied)))
    copied.unlink()


@pytest.mark.usefixtures("quick_sifs")
def test_a_sif_by_the_definition_as_an_ordinary_user(
    cpu: Made, ordinary_user: User, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Runs as that user in a process that root forked, from code that root has read."""
    able("apptainer")
    store, source = Store(ordinary_user.folder / "cache/images"), images.store()
    stocked(store, cpu, source, copied=True)
    monkeypatch.setenv("SLIPWORKS_CACHE", str(store.root.parent))

    def work() -> Image:
        made = images.make("cpu", format="sif", defined=True)
        assert_runs(Apptainer(), made.reference)
        return made.image

    with gathered() as secrets:
        files = [path for path in (secrets.index, secrets.ca) if path]
        cache = store.root.parent
        for path in (cache, *cache.rglob("*"), *files, *{path.parent for path in files}):
            shutil.chown(path, ordinary_user.name)
        monkeypatch.setattr(building.secrets, "gathered", lambda index: contextlib.nullcontext(secrets))
        made: Image = ordinary_user.do(work)
    found = recorded(store, made)
    assert found.record.sif and found.record.sif.made_of == "definition"
    assert Apptainer().labels(made.path)["slipworks.key"] == made.key != cpu.image.key
    assert asked(proof.known(store, made)) == asked(proof.known(source, cpu.image))
    assert cli.main(["image", "show", str(made.path)]) == 0
    shown = capsys.readouterr().out
    assert "passed" in shown and "definition" in shown and made.digest in shown


def asked(report: Report | None) -> list[tuple[str, str]]:
    """What a proof asked, and how it ended."""
    assert report and not report.failed
    return [(each.check, each.status) for each in report.findings]
