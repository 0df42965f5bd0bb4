"""SIFs for real, built and run by an ordinary user, as clusters do."""

from __future__ import annotations

import io
import shutil
import signal
import subprocess
import tarfile
from pathlib import Path

import pytest
from msgspec import structs

from containers import host
from containers.engine import Build, ContainerRun
from containers.engines.apptainer import Apptainer
from containers.secrets import BuildSecrets
from kit.errors import (
    HostError,
    UnsupportedError,
)
from kit.nouns import Image, Platform
from tests.live.needs import need
from tests.live.parts_engines import Registry, User
from tests.live.tiny import ANSWERS, CREDENTIAL, built, call, expected, pulled, show, tiny_recipe

pytestmark = pytest.mark.live


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
def sif(
    ordinary_user: User, tiny_base: Image, open_folder: Path, apptainer_layer: Path
) -> tuple[Path, list[str]]:
    """A SIF that the ordinary user built, and what was said meanwhile."""
    need(shutil.which("apptainer"), "apptainer is not installed")
    index, ca = open_folder / "sif index", open_folder / "sif ca"
    index.write_text(f"PIP_INDEX_URL='https://me:{CREDENTIAL}@index.invalid/simple'\n")
    ca.write_text("a certificate\n")
    out = ordinary_user.folder / "it's a, image.sif"
    order = Build(
        recipe=tiny_recipe(), out=out, base=tiny_base, layer=apptainer_layer, secrets=BuildSecrets(index, ca)
    )

    def work() -> list[str]:
        said: list[str] = []
        made = Apptainer()
        assert made.check()[0].isdigit()
        made.build(order, said.append)
        return said

    return out, ordinary_user.do(work)


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


def test_an_oci_image_becomes_a_sif(tiny_base: Image, tmp_path: Path) -> None:
    need(shutil.which("apptainer"), "apptainer is not installed")
    Apptainer().convert(tiny_base, tmp_path / "a, b.sif", lambda line: None)
    argv = Apptainer().run_argv(
        ContainerRun(image=str(tmp_path / "a, b.sif"), argv=("sh", "-c", "echo $HOME"))
    )
    assert call(argv) == (0, "/tmp\n")


def test_apptainer_refuses_what_it_cannot_build(tmp_path: Path, tiny_base: Image) -> None:
    foreign = Platform("arm64" if Platform.host().arch == "amd64" else "amd64")
    with pytest.raises(UnsupportedError):
        built(Apptainer(), tiny_base, BuildSecrets(), tmp_path / "out", tiny_recipe(platform=foreign))
    lacking = structs.replace(host.facts(), root=True, every_capability=False)
    with pytest.raises(HostError) as raised:
        built(Apptainer(on=lacking), tiny_base, BuildSecrets(), tmp_path / "out")
    assert raised.value.hint


@pytest.mark.parametrize("status", ANSWERS)
def test_what_a_registry_answers_apptainer_has_a_kind(
    ordinary_user: User, refusing_registry: Registry, status: int
) -> None:
    need(shutil.which("apptainer"), "apptainer is not installed")
    order = Build(recipe=pulled(refusing_registry.reference(status)), out=ordinary_user.folder / "none.sif")
    with pytest.raises(ANSWERS[status]) as raised:
        ordinary_user.do(lambda: Apptainer().build(order, lambda line: None))
    assert raised.value.hint
