"""SIFs for real, made and run by an ordinary user, as clusters do."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec import structs

from containers import host
from containers import sif as sifs
from containers.engine import ContainerRun
from containers.engines.apptainer import Apptainer
from containers.secrets import BuildSecrets
from containers.workplace import layout
from image_cache.store import Store
from kit.errors import HostError, NoSpaceError, UnsupportedError
from kit.nouns import Image, Platform, digest_file, key_of
from tests.live.needs import need
from tests.live.parts_engines import Registry, User
from tests.live.tiny import (
    ANSWERS,
    CREDENTIAL,
    ENVIRONMENT,
    LABELS,
    call,
    expected,
    pulled,
    show,
    tiny_recipe,
)

pytestmark = pytest.mark.live


def quiet(_line: str) -> None:
    """Progress that nobody reads."""


@pytest.fixture(scope="session")
def apptainer_layer(open_folder: Path) -> Path:
    """A layer with a link that must stay a link."""
    out = open_folder / "lay'er, 1.tar.gz"
    with tarfile.open(out, "w:gz") as tar:
        body = tarfile.TarInfo("slipworks/bin/tool")
        body.size, body.mode = 5, 0o755
        tar.addfile(body, io.BytesIO(b"tool\n"))
        link = tarfile.TarInfo("slipworks/bin/link")
        link.type, link.linkname = tarfile.SYMTYPE, "tool"
        tar.addfile(link)
    return out


@pytest.fixture(scope="session")
def define(tiny_base: Image, open_folder: Path, apptainer_layer: Path) -> Callable[[Path], list[str]]:
    """Builds the tiny recipe by its definition, and returns what was said meanwhile."""
    need(shutil.which("apptainer"), "apptainer is not installed")
    index, ca = open_folder / "sif index", open_folder / "sif ca"
    index.write_text(f"PIP_INDEX_URL='https://me:{CREDENTIAL}@index.invalid/simple'\n")
    ca.write_text("a certificate\n")

    def work(out: Path) -> list[str]:
        said: list[str] = []
        made = Apptainer()
        assert made.check()[0].isdigit()
        secrets = BuildSecrets(index, ca)
        made.define(tiny_recipe(), out, said.append, secrets=secrets, base=tiny_base, layer=apptainer_layer)
        return said

    return work


@pytest.fixture(scope="session")
def sif(ordinary_user: User, define: Callable[[Path], list[str]]) -> tuple[Path, list[str]]:
    """A SIF that the ordinary user built, and what was said meanwhile."""
    out = ordinary_user.folder / "it's a, image.sif"
    return out, ordinary_user.do(lambda: define(out))


def test_a_sif_has_layer_and_labels_and_no_secret(ordinary_user: User, sif: tuple[Path, list[str]]) -> None:
    path, said = sif
    assert Apptainer().labels(path).items() >= tiny_recipe().labels.items()
    assert CREDENTIAL not in "\n".join(said)
    script = "cat /made; ls -la /slipworks/bin/link; ls /run"

    def work() -> tuple[int, str, int]:
        code, text = call(Apptainer().run_argv(ContainerRun(image=str(path), argv=("sh", "-c", script))))
        unpacked = ordinary_user.folder / "unpacked"
        done = subprocess.run(
            ["apptainer", "build", "--sandbox", unpacked, path], capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr
        found = subprocess.run(
            ["grep", "-r", "-a", "-F", CREDENTIAL, unpacked], capture_output=True, check=False
        )
        return code, text, found.returncode

    code, text, grep = ordinary_user.do(work)
    assert code == 0, text
    assert text.startswith("from the context\na certificate\n")
    assert "/slipworks/bin/link -> tool" in text
    assert text.splitlines()[-1].endswith("-> tool"), "something was left in /run"
    assert grep == 1


def test_a_process_in_a_sif_sees_the_same(ordinary_user: User, sif: tuple[Path, list[str]]) -> None:
    seen = ordinary_user.do(lambda: show(Apptainer(), str(sif[0]), ordinary_user.folder / "sif run", call))
    assert seen == expected()


def test_apptainer_passes_term_on(ordinary_user: User, sif: tuple[Path, list[str]]) -> None:
    script = "trap 'exit 5' TERM; echo up; while :; do sleep 0.05; done"

    def work() -> int:
        argv = Apptainer().run_argv(ContainerRun(image=str(sif[0]), argv=("sh", "-c", script)))
        client = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        assert client.stdout
        assert client.stdout.readline() == "up\n"
        client.send_signal(signal.SIGTERM)
        return client.wait(30)

    assert ordinary_user.do(work) == 5


def test_apptainer_refuses_what_it_cannot_build(tmp_path: Path) -> None:
    foreign = Platform("arm64" if Platform.host().arch == "amd64" else "amd64")
    with pytest.raises(UnsupportedError) as told:
        Apptainer().define(tiny_recipe(platform=foreign), tmp_path / "out", quiet)
    assert told.value.hint
    lacking = structs.replace(host.facts(), root=True, every_capability=False)
    with pytest.raises(HostError) as raised:
        Apptainer(on=lacking).define(tiny_recipe(), tmp_path / "out", quiet)
    assert raised.value.hint


@pytest.mark.parametrize("status", ANSWERS)
def test_what_a_registry_answers_apptainer_has_a_kind(
    ordinary_user: User, refusing_registry: Registry, status: int
) -> None:
    need(shutil.which("apptainer"), "apptainer is not installed")
    recipe, out = pulled(refusing_registry.reference(status)), ordinary_user.folder / "none.sif"
    with pytest.raises(ANSWERS[status]) as raised:
        ordinary_user.do(lambda: Apptainer().define(recipe, out, quiet))
    assert raised.value.hint
    assert not ordinary_user.do(lambda: list(out.parent.glob("*none*")))


def test_two_builds_by_a_definition_give_equal_bytes(
    ordinary_user: User, sif: tuple[Path, list[str]], define: Callable[[Path], list[str]]
) -> None:
    again = ordinary_user.folder / "another folder/again.sif"
    ordinary_user.do(lambda: define(again))
    assert digest_file(again) == digest_file(sif[0])


# From an OCI image


@pytest.fixture(scope="session")
def converted(tiny_image: Image, open_folder: Path) -> Path:
    need(shutil.which("apptainer"), "apptainer is not installed")
    out = open_folder / "a, b: it's.sif"
    Apptainer().convert(tiny_image, out, quiet)
    return out


def test_a_converted_image_says_what_the_image_says(converted: Path) -> None:
    labels = Apptainer().labels(converted)
    assert labels.items() >= LABELS.items()
    assert labels["org.label-schema.build-date"] == "1980-01-01T00:00:00Z"
    script = 'echo "$FROM_IMAGE|$PATH|$HOME"; cat /layer/file; stat -c %Y /layer/file; touch /x || echo no'
    argv = Apptainer().run_argv(ContainerRun(image=str(converted), argv=("/bin/sh", "-c", script)))
    code, text = call(argv)
    assert code == 0, text
    first, *rest = text.splitlines()
    variable, path, home = first.split("|")
    assert (variable, home) == ("it's here", "/tmp")
    assert path.startswith(ENVIRONMENT["PATH"])  # apptainer adds the usual folders
    assert rest == ["tiny315532800", "no"], "a file newer than the image says it is keeps its time"
    assert not list(converted.parent.glob("*slipworks-sif*")), "temporary files were left"


def test_a_converted_image_runs_its_command(converted: Path, ordinary_user: User) -> None:
    """What `apptainer run` does without more words, as docker would."""
    argv = ["apptainer", "--quiet", "run", "--userns", "--cleanenv", "--no-mount=home,cwd", str(converted)]
    code, text = call(argv)
    assert (code, text) == (0, "0\n"), text


def test_two_conversions_give_equal_bytes(
    converted: Path, tiny_image: Image, ordinary_user: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At another time, in another folder, on other processors, and by another user."""
    monkeypatch.setenv("APPTAINER_TMPDIR", str(tmp_path))
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        Apptainer().convert(tiny_image, tmp_path / "again.sif", quiet)
    finally:
        os.sched_setaffinity(0, before)
    assert digest_file(tmp_path / "again.sif") == digest_file(converted)
    monkeypatch.delenv("APPTAINER_TMPDIR")
    theirs = ordinary_user.folder / "theirs.sif"
    ordinary_user.do(lambda: Apptainer().convert(tiny_image, theirs, quiet))
    assert digest_file(theirs) == digest_file(converted)


def test_a_foreign_image_becomes_a_sif(tiny_root: Path, tiny_store: Store, tmp_path: Path) -> None:
    need(shutil.which("apptainer"), "apptainer is not installed")
    foreign = Platform("arm64" if Platform.host().arch == "amd64" else "amd64")
    key = key_of({"sif of": str(foreign)})
    image = tiny_store.put_root(tiny_root, key=key, name="base-foreign-sif", platform=foreign)
    Apptainer().convert(image, tmp_path / "foreign.sif", quiet)
    assert Apptainer().labels(tmp_path / "foreign.sif")["org.label-schema.build-arch"] == foreign.arch


def test_no_layer_is_kept_in_the_users_cache(
    tiny_image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need(shutil.which("apptainer"), "apptainer is not installed")
    monkeypatch.setenv("APPTAINER_CACHEDIR", str(tmp_path / "cache"))
    Apptainer().convert(tiny_image, tmp_path / "x.sif", quiet)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_a_disk_without_room_is_named(tiny_image: Image, tmp_path: Path) -> None:
    need(os.geteuid() == 0, "a small file system needs root")
    disk = tmp_path / "small"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2500k", "tmpfs", disk], check=True)
    try:
        with pytest.raises(NoSpaceError, match=f"convert {tiny_image.name} to a SIF: {disk} has") as early:
            Apptainer().convert(tiny_image, disk / "x.sif", quiet)
        with layout(tiny_image) as (folder, source), pytest.raises(NoSpaceError, match="no space") as late:
            order = sifs.Making(what="try", source=source, cwd=folder, epoch=0)  # size not known
            sifs.make(order, disk / "x.sif", quiet)
        for raised in (early, late):
            assert raised.value.hint and f"in {disk}: runner image gc" in raised.value.hint
        assert not list(disk.iterdir())
    finally:
        subprocess.run(["umount", disk], check=True)
