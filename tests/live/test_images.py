"""`make image` for real: the cpu image put together from layers, of this machine's platform and the other."""

from __future__ import annotations

import _imp
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec import Struct, json, structs

from containers import sif_parts
from definitions import bases, recipes
from image_cache import oci, transfer, unpacking
from image_cache.references import Reference
from image_cache.registry import Registry
from image_cache.store import Store
from kit.errors import EXIT_CODES
from kit.nouns import Image, digest
from runner import cli, compiling, images, known, proof
from runner.images import Made
from tests.live.needs import need
from tests.live.parts_cpu import HERE, OTHER, Shelf, plan_of, stocked, typed
from tests.live.parts_left import processes

pytestmark = [pytest.mark.live, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[2]
SITE = "opt/stack/lib/python3.13/site-packages"


def recorded(store: Store, image: Image) -> known.Known:
    """What is known of an image, which must be whole."""
    found = known.of(store, image)
    assert found.recorded and not found.wrong, found.wrong
    return found


def names(made: Made, *system: str) -> list[str]:
    """Of the layers that an image must have, lowest first."""
    return ["base", *system, *(f"stack {each.group.name}" for each in made.recipe.stack), "slipworks"]


def layers(store: Store, image: Image) -> dict[str, str]:
    """Name -> digest of an image's layers."""
    return {each.name: each.digest for each in recorded(store, image).record.layers}


def file(store: Store, image: Image, path: str) -> bytes:
    found = unpacking.file(store, store.opened(image)[0].layers, path)
    assert found is not None, path
    return found


def test_it_is_put_together_from_layers(cpu: Made, shelf: Shelf) -> None:
    store = shelf(cpu)
    made = images.make("cpu", engine="none")
    found = recorded(store, made.image)
    assert [each.name for each in found.record.layers] == names(made)
    assert found.record.proof and found.record.proof.passed and not found.record.proof.exceptions
    assert found.record.platform == HERE and found.record.built and found.bill
    named = {each["name"] for each in json.decode(found.bill)["components"]}
    assert {"ray", "numpy", "wandb", "python3.13", "libc6"} <= named
    lock = file(store, made.image, "opt/stack/stack.lock")
    said = store.opened(made.image)[1]["config"]
    assert said["Labels"] == made.image.labels
    assert said["Labels"].items() >= {
        "slipworks.key": made.recipe.key, "slipworks.line": "cpu", "slipworks.lock": digest(lock),
        "slipworks.sbom": digest(found.bill), "slipworks.verified": "passed",
    }.items()  # fmt: skip
    path = next(each for each in said["Env"] if each.startswith("PATH="))
    assert path.startswith("PATH=/opt/stack/bin:") and path.endswith(":/slipworks/bin")
    assert said["Cmd"] == ["python"] and not said.get("Entrypoint")
    assert made.reference == f"oci:{store.root}:{made.image.name}" and len(names(made)) >= 3
    assert not [each for each in store.list() if each.name.startswith("unproved-")]


def test_a_second_make_answers_in_one_line_and_builds_nothing(cpu: Made) -> None:
    done = subprocess.run(typed("build", "cpu", "--engine", "none"), capture_output=True, text=True)
    assert (done.stdout, done.stderr) == (f"{cpu.reference}\n", "")


class Second(Struct, frozen=True):
    """The same image, built again. stories: what the two processes told that built it."""

    store: Store
    image: Image
    answers: tuple[str, str]
    stories: tuple[str, str]


@pytest.fixture(scope="module")
def second(cpu: Made, tmp_path_factory: pytest.TempPathFactory) -> Second:
    """Built at once by two processes of another umask, in a store that has nothing but the base."""
    cache = tmp_path_factory.mktemp("second") / "cache"
    store, source = Store(cache / "images"), images.store()
    stocked(store, cpu, source, layers=False)
    both = [
        subprocess.Popen(
            typed("build", "cpu", "--engine", "none"), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, umask=0o077, env={**os.environ, "SLIPWORKS_CACHE": str(cache)},
        )
        for _ in "ab"
    ]  # fmt: skip
    told = [child.communicate() for child in both]
    assert [child.returncode for child in both] == [0, 0], told
    image = store.find(cpu.image.key, "oci")
    assert image
    (first, story), (other, another) = told
    return Second(store, image, (first, other), (story, another))


def test_of_two_at_once_each_part_is_built_once(cpu: Made, second: Second) -> None:
    assert second.answers[0] == second.answers[1]
    begun = [line for story in second.stories for line in story.splitlines() if line.endswith(" …")]
    stack = [f"building stack {each.group.name}" for each in cpu.recipe.stack]
    assert stack
    for part in (*stack, "building the layer slipworks", "proving"):
        assert sum(line.startswith(part) for line in begun) == 1, begun
    assert any("waiting for process" in story for story in second.stories)


def test_two_builds_of_one_key_are_one_digest(cpu: Made, second: Second) -> None:
    assert layers(second.store, second.image) == layers(images.store(), cpu.image)
    assert second.image.digest == cpu.image.digest
    assert recorded(second.store, second.image).bill == recorded(images.store(), cpu.image).bill


def assert_recorded_with_sif(store: Store, made: Made) -> None:
    """Of image and SIF there is one record, and the SIF's proof asked the same of the same files."""
    image = store.find(made.image.key, "oci")
    assert image
    records = [recorded(store, each).record for each in (image, made.image)]
    assert records[0] == records[1] and records[0].sif and records[0].sif.made_of == "image"
    reports = [proof.known(store, each) for each in (image, made.image)]
    assert reports[0] == reports[1] and reports[0] and not reports[0].failed


def test_a_foreign_image_without_emulation(foreign_cpu: Made, shelf: Shelf) -> None:
    store = shelf(foreign_cpu)
    made = images.make("cpu", platform=str(OTHER), engine="none")
    found = recorded(store, made.image)
    assert [each.name for each in found.record.layers] == names(made)
    assert found.record.proof and found.record.proof.passed and found.record.platform == OTHER
    assert store.opened(made.image)[1]["architecture"] == OTHER.arch
    for folder, module in (("numpy", "__init__"), ("wandb/sdk", "wandb_run")):
        assert_compiled(store, made.image, f"{SITE}/{folder}", module)


def assert_compiled(store: Store, image: Image, folder: str, module: str) -> None:
    """Byte code that is checked against its source's hash, and names the path that it has in the image."""
    source = file(store, image, f"{folder}/{module}.py")
    raw = file(store, image, f"{folder}/__pycache__/{module}.cpython-313.pyc")
    assert int.from_bytes(raw[4:8], "little") == 0b11
    assert raw[8:16] == _imp.source_hash(int.from_bytes(raw[:4], "little"), source)
    assert f"/{folder}/{module}.py".encode() in raw and str(ROOT).encode() not in raw


def test_a_base_of_another_python_compiles_by_its_own(
    cpu: Made, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = shelf(cpu)
    monkeypatch.setattr(compiling, "fits", lambda own, ground: False)
    made = images.make("cpu", engine="none")
    assert {each.compiler for each in made.recipe.stack} == {made.recipe.base.digest, ""}
    assert made.recipe.key != cpu.recipe.key
    assert_compiled(store, made.image, f"{SITE}/numpy", "__init__")


@pytest.mark.usefixtures("quick_sifs")
def test_a_foreign_sif(foreign_cpu: Made, shelf: Shelf) -> None:
    need(shutil.which("apptainer"), "apptainer is not installed")
    store = shelf(foreign_cpu)
    made = images.make("cpu", platform=str(OTHER), format="sif")
    assert made.image.platform == OTHER and sif_parts.root(made.image.path).arch == OTHER.arch
    assert_recorded_with_sif(store, made)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of this checkout's code."""
    folder = tmp_path / "check out"
    for name in ("kit", "definitions", "containers", "image_cache", "slurm", "runner"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def test_a_change_of_the_kit_builds_the_runners_layer_alone(cpu: Made, shelf: Shelf, checkout: Path) -> None:
    store = shelf(cpu)
    with (checkout / "runner/cli.py").open("a") as code:
        code.write("# a change\n")
    argv = [sys.executable, "-P", *typed("build", "cpu", "--engine", "none")[1:]]
    env = {**os.environ, "PYTHONPATH": str(checkout)}
    done = subprocess.run(argv, capture_output=True, text=True, env=env, cwd=checkout)
    assert done.returncode == 0, done.stderr
    begun = [line.partition(" ")[0] for line in done.stderr.splitlines() if line.endswith(" …")]
    assert begun == ["building", "proving"] and "building the layer slipworks" in done.stderr
    changed = images.named(done.stdout.strip().rpartition(":")[2])
    before, after = layers(store, images.make("cpu", engine="none").image), layers(store, changed)
    assert {name for name in names(cpu) if before[name] != after[name]} == {"slipworks"}
    assert file(store, changed, "slipworks/python/site/runner/cli.py").endswith(b"# a change\n")


def test_what_fails_its_proof_is_no_image(
    cpu: Made, shelf: Shelf, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    private_storage: Path,
) -> None:  # fmt: skip
    need(shutil.which("podman"), "podman is not installed")
    store, expected = shelf(cpu), proof.expected
    with monkeypatch.context() as patch:
        patch.setattr(proof, "expected", lambda *told: structs.replace(expected(*told), python="3.14"))
        patch.setattr("containers.engines.podman.Podman.load", None)
        assert cli.main(["image", "build", "cpu", "--engine", "podman"]) == EXIT_CODES["VerifyError"] == 42
    told = capsys.readouterr()
    (line,) = [line for line in told.err.splitlines() if line.startswith("error: ")]
    assert "is not what it must be" in line and not told.out
    assert store.find(cpu.image.key, "oci") is None
    assert cli.main(["image", "list"]) == 0
    listed = capsys.readouterr().out
    assert f"unproved-{cpu.image.name}" in listed and f"\n{cpu.image.name}" not in listed
    made = images.make("cpu", engine="none")  # as it is expected again, it is what it must be
    assert made.image.digest == cpu.image.digest
    assert not [each for each in store.list() if each.name.startswith("unproved-")]


@pytest.fixture
def library(
    registry_host: str, cpu: Made, foreign_cpu: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> bases.Base:
    """The default base's own repository, in a registry on loopback that the user's bases file names.

    It serves bootstrapped images of both platforms by one index, as the real one does.
    """
    reference = f"{registry_host}/library/python:3.12-slim-bookworm"
    source, listed = images.store(), []
    for made in (cpu, foreign_cpu):
        base = plan_of(made, source).base
        assert base
        transfer.push(source, base, f"{registry_host}/library/python:{base.platform.arch}")
        stated = {"architecture": base.platform.arch, "os": "linux"}
        size = len(source.read(base.digest))
        listed.append(oci.Descriptor(oci.MANIFEST, base.digest, size, platform=stated))
    raw = oci.encode(oci.Index(tuple(listed)))
    Registry(registry_host).put_manifest(Reference.parse(reference), raw, oci.INDEX)
    (tmp_path / "bases.toml").write_text(f"""
[python312]
kind = "registry"
reference = "{reference}"
digest = "{digest(raw)}"
date = "2026-11-21"
sources = ["this test"]
python = "3.13"
interpreter = "/usr/bin/python3.13"
distribution = "debian"
suite = "trixie"
""")
    monkeypatch.setenv("SLIPWORKS_BASES", str(tmp_path / "bases.toml"))
    return bases.load("python312", file=tmp_path / "bases.toml")


@pytest.mark.parametrize("platform", [HERE, OTHER])
def test_on_a_base_that_is_pulled(
    platform: object, library: bases.Base, cpu: Made, foreign_cpu: Made, shelf: Shelf
) -> None:
    bootstrapped = cpu if platform == HERE else foreign_cpu
    layers = images.store().opened(bootstrapped.image)[0].layers
    store = shelf(cpu, foreign_cpu)
    for each in store.list():
        store.records.drop(each.key, "oci")  # the registry's is asked for
    made = images.make("cpu", base="python312", platform=str(platform), engine="none")
    found = recorded(store, made.image)
    assert made.image.platform == platform and found.record.proof and found.record.proof.passed
    assert found.record.base
    assert (found.record.base.reference, found.record.base.digest) == (library.reference, library.digest)
    assert made.image.key != bootstrapped.image.key
    assert store.opened(made.image)[0].layers == layers
    assert any(each.name.startswith(f"python-{made.image.platform.arch}") for each in store.list())


def test_distribution_packages_are_one_layer_upon_the_base(
    library: bases.Base, cpu: Made, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As lines with CUDA have them, on a base that nobody bootstrapped here."""
    store = shelf(cpu)
    monkeypatch.setattr(recipes.system, "packages", lambda line, base: ("tini",))
    made = images.make("cpu", base="python312", engine="none")
    found = recorded(store, made.image)
    assert [each.name for each in found.record.layers] == names(made, "system")
    assert found.record.proof and found.record.proof.passed
    assert file(store, made.image, "usr/bin/tini")[:4] == b"\x7fELF"
    assert found.bill and "tini" in {each["name"] for each in json.decode(found.bill)["components"]}
    again = images.make("cpu", base="python312", engine="none")
    assert again.image == made.image


def test_pushed_to_a_registry(cpu: Made, registry_host: str) -> None:
    pushed = images.make("cpu", engine="none", push=f"{registry_host}/training/cpu:1")
    assert pushed.reference == f"{registry_host}/training/cpu:1@{cpu.image.digest}"


def test_a_signal_ends_what_is_built_beside(cpu: Made, shelf: Shelf) -> None:
    """While the stack is byte-compiled and packed in threads, and the runner's layer by the main one."""
    store = shelf(cpu, layers=False)
    for sign, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        with subprocess.Popen(
            typed("build", "cpu", "--engine", "none"), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        ) as child:  # fmt: skip
            assert child.stderr
            begun: list[str] = []
            while not {"building stack", "building the"} <= {" ".join(each.split()[:2]) for each in begun}:
                begun.append(child.stderr.readline())
                assert begun[-1], begun
            child.send_signal(sign)
            _, told = child.communicate(timeout=60)
        assert child.returncode == code and "Traceback" not in told, told
        assert not list((store.root.parent / "scratch").iterdir())
        assert not [each for each in store.root.rglob("*.tmp") if each.is_file()]
        assert not [each for each in processes("cmdline") if os.fsencode(store.root.parent) in each]
