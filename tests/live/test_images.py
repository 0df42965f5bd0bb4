"""`make image` for real: the cpu image by every engine, in both formats, for this platform and another."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec import structs

from containers import engine as engines
from containers.engine import Build, ContainerRun, Engine
from containers.engines.apptainer import Apptainer
from containers.secrets import gathered
from image_cache.store import Store
from kit.errors import HashMismatchError, SlipworksError
from kit.nouns import Platform
from runner import building, images, planning
from runner.images import Made
from runner.planning import Plan, Wanted
from tests.live.needs import need
from tests.live.parts_engines import User

pytestmark = [pytest.mark.live, pytest.mark.timeout(1200)]
IMPORTS = ("python", "-c", "import ray, numpy, wandb; print('imported', ray.__version__)")
RUNNER = ("/slipworks/bin/runner", "--version")


@pytest.fixture(scope="module")
def made() -> Made:
    """The cpu image in the user's own store, by the first engine that works and makes OCI images."""
    try:
        return images.make("cpu", format="oci")
    except SlipworksError as reason:
        need(False, reason.message)
        raise


@pytest.fixture
def fresh(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store of the test's own, named awkwardly, that has the base and the layer but no image on them."""
    folder = tmp_path / "it's a cache"
    shutil.copytree(images.store().root, folder / "images", copy_function=os.link, symlinks=True)
    monkeypatch.setenv("SLIPWORKS_CACHE", str(folder))
    store = images.store()
    for image in store.list():
        if not image.name.startswith("base-"):
            (store.root / "refs" / f"{image.key}.{image.format}.json").unlink()
    assert planning.plan(Wanted(arch="cpu"), store).missing == ()
    return store


def able(name: str) -> Engine:
    found = engines.get(name, images.store().write_docker_archive)
    try:
        found.check()
    except SlipworksError as reason:
        need(False, reason.message)
    return found


def runs(made: Made, *argv: str) -> str:
    """What a process in the image prints."""
    command = made.engine.run_argv(ContainerRun(image=made.reference, argv=argv))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def check_oci(store: Store, made: Made) -> None:
    """The layer's own bytes are the last layer, its entry point last on PATH, and labels say what it is."""
    manifest, config = store.opened(made.image)
    appended = building.layer_artifact(planning.plan(Wanted(arch="cpu"), store).layer, Platform.host(), store)
    assert manifest.layers[-1].digest == appended.digest
    path = next(entry for entry in config["config"]["Env"] if entry.startswith("PATH="))
    assert path.startswith("PATH=/opt/stack/bin:") and path.endswith(":/slipworks/bin")
    assert made.image.labels["slipworks.key"] == made.image.key == made.recipe.key


def test_podman(fresh: Store, private_storage: Path) -> None:
    able("podman")
    made = images.make("cpu", engine="podman")
    check_oci(fresh, made)
    assert runs(made, *IMPORTS).startswith("imported 2.57")
    assert runs(made, *RUNNER).startswith("runner ")


def test_docker(fresh: Store, private_dockerd: str) -> None:
    able("docker")
    made = images.make("cpu", engine="docker")
    check_oci(fresh, made)
    assert runs(made, *IMPORTS).startswith("imported 2.57")
    assert runs(made, *RUNNER).startswith("runner ")


def test_buildah(fresh: Store, private_storage: Path) -> None:
    buildah = able("buildah")
    made = images.make("cpu", engine="buildah")
    check_oci(fresh, made)
    assert buildah.has(made.reference)


def test_sif_of_what_another_engine_built(made: Made, ordinary_user: User) -> None:
    able("apptainer")
    if made.engine.name != "podman":
        need(False, "podman does not work here")
    sif = images.make("cpu", engine="podman", format="sif")
    assert sif.reference.endswith(".sif") and Path(sif.reference).is_file()
    copied = ordinary_user.folder / "converted.sif"
    shutil.copyfile(sif.reference, copied)
    check_sif(copied, ordinary_user)


def test_sif_by_the_definition_as_an_ordinary_user(made: Made, ordinary_user: User) -> None:
    """Runs as that user in a process that root forked, from code and data that root has read."""
    able("apptainer")
    store = images.store()
    plan = planning.plan(Wanted(arch="cpu"), store)
    layer = building.layer_artifact(plan.layer, plan.target, store)
    recipe, out = plan.recipe(), ordinary_user.folder / "by definition.sif"
    own = Store(ordinary_user.folder / "images")
    shutil.copytree(store.root, own.root, copy_function=shutil.copyfile)
    base = structs.replace(plan.made[plan.target], path=own.root)
    for path in (own.root, *own.root.rglob("*")):
        shutil.chown(path, ordinary_user.name)
    with gathered() as secrets:
        files = [path for path in (secrets.index, secrets.ca) if path]
        for path in (*files, *{path.parent for path in files}):
            shutil.chown(path, ordinary_user.name)
        order = Build(recipe=recipe, out=out, secrets=secrets, base=base, layer=own.blob(layer.digest))
        ordinary_user.do(lambda: Apptainer().build(order, lambda line: None))
    check_sif(out, ordinary_user)
    assert Apptainer().labels(out)["slipworks.key"] == recipe.key


def check_sif(sif: Path, user: User) -> None:
    shutil.chown(sif, user.name)

    def said() -> list[str]:
        outputs = []
        for argv in (IMPORTS, RUNNER):
            command = Apptainer().run_argv(ContainerRun(image=str(sif), argv=argv))
            outputs.append(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        return outputs

    imported, version = user.do(said)
    assert imported.startswith("imported 2.57") and version.startswith("runner ")


def test_foreign(made: Made, private_storage: Path) -> None:
    """arm64 on amd64 (or the other way round): the same code, and nothing foreign is run."""
    able("podman")
    foreign = next(each for each in (Platform("amd64"), Platform("arm64")) if each != Platform.host())
    found = images.make("cpu", engine="podman", platform=str(foreign))
    assert found.image.platform == foreign and found.recipe.platform == foreign
    manifest, config = images.store().opened(found.image)
    assert config["architecture"] == foreign.arch and len(manifest.layers) == 3


def build_argv(*words: str) -> list[str]:
    return [
        sys.executable,
        "-c",
        "import sys; from runner.cli import main; sys.exit(main())",
        "image",
        *words,
    ]


def test_a_second_make_answers_in_one_line_and_builds_nothing(made: Made) -> None:
    argv = build_argv("build", "cpu", "--engine", made.engine.name)
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert done.stdout == f"{made.reference}\n"
    assert "building" not in done.stderr


def test_two_at_once_build_once(fresh: Store, private_storage: Path) -> None:
    able("podman")
    argv = build_argv("build", "cpu", "--engine", "podman")
    both = [subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in "ab"]
    told = [child.communicate() for child in both]
    assert [child.returncode for child in both] == [0, 0], told
    assert told[0][0] == told[1][0]
    # The one that waited says for whom; it never says that it builds.
    assert sum("with podman …" in err for _, err in told) == 1


def test_a_change_of_the_kit_builds_no_stack(
    made: Made, fresh: Store, private_storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    able("podman")
    first = images.make("cpu", engine="podman")
    layer = building.layer_artifact(planning.plan(Wanted(arch="cpu"), fresh).layer, Platform.host(), fresh)
    monkeypatch.setattr(planning.layer, "key", lambda spec, platform: "c" * 64)
    monkeypatch.setattr(building, "layer_artifact", lambda spec, platform, store: layer)
    monkeypatch.setattr(type(first.engine), "build", None)
    second = images.make("cpu", engine="podman")
    assert second.image.key != first.image.key
    assert fresh.opened(second.image)[0].layers == fresh.opened(first.image)[0].layers


def test_a_wrong_hash_names_the_package_and_installs_nothing(
    fresh: Store, private_storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    able("podman")
    honest = Plan.plain

    def falsified(plan: Plan) -> object:
        recipe = honest(plan)
        name = next(name for name in recipe.context if name.endswith(".lock") and "cpu" in name)
        head, numpy, tail = recipe.context[name].partition("\nnumpy==")
        digit = tail.index("sha256:") + 7
        tail = tail[:digit] + ("0" if tail[digit] != "0" else "1") + tail[digit + 1 :]
        return structs.replace(recipe, context={**recipe.context, name: head + numpy + tail})

    monkeypatch.setattr(Plan, "plain", falsified)
    with pytest.raises(HashMismatchError, match=r"numpy==\S+ \(numpy-\S+\.whl\).*lock: stacks/cpu/"):
        images.make("cpu", engine="podman")
    assert all(image.name.startswith("base-") for image in fresh.list())


def test_pushed_to_a_registry(made: Made, registry_host: str) -> None:
    pushed = images.make("cpu", engine=made.engine.name, push=f"{registry_host}/training/cpu:1")
    assert pushed.reference == f"{registry_host}/training/cpu:1@{made.image.digest}"
