"""Compiling an extension: by a real C compiler on this machine, and by the whole way through a real engine.

A CUDA compiler would need an image of gigabytes. In its place stands a script that looks at what it is asked
for; everything around it is real: container, binds, sources by hash, checks, wheelhouse.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from msgspec.structs import replace

from containers import native_build
from definitions import archs, lines
from definitions.extensions import Extension
from image_cache.wheelhouse import Kept
from kit.errors import BuildError
from kit.nouns import Platform, digest_file
from runner import images, planning, wheel_making, wheels
from runner.images import Made
from runner.wheels import Order
from tests.live.needs import need
from tests.unit.parts_wheels import fat, library

pytestmark = [pytest.mark.live, pytest.mark.timeout(600)]
ROOT = Path(__file__).parents[2]

C_SETUP = """\
from setuptools import Extension, setup
from wheel.bdist_wheel import bdist_wheel as own  # by its old name, as these packages do
setup(name="tiny", version="1", ext_modules=[Extension("tiny", ["tiny.c"])], cmdclass={"bdist_wheel": own})
"""
C_CODE = """\
#include <Python.h>
static struct PyModuleDef it = {PyModuleDef_HEAD_INIT, "tiny", 0, -1, 0};
PyMODINIT_FUNC PyInit_tiny(void) { return PyModule_Create(&it); }
"""
FETCHING_SETUP = "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9/ready.whl')\n"

# What stands for nvcc: it compiles nothing, and ends badly unless it is asked for one GPU's code.
NVCC = """\
#!/bin/sh
case "$*" in
    *sm_80* | *sm_120*) echo "error: asked for another GPU: $*"; exit 1 ;;
    *code=sm_90*) ;;
    *) exit 2 ;;
esac
cp library.bin made.so
"""
BACKEND = """\
import os, shlex, socket, subprocess, sys, zipfile

def build_wheel(folder, settings=None, metadata=None):
    try:
        socket.create_connection(("127.0.0.1", 9))
    except OSError as refused:
        assert "may not connect" in str(refused), refused
    else:
        sys.exit("connected")
    try:
        open(os.path.join(os.path.dirname(sys.argv[1]), "mine"), "w")
    except OSError:
        pass
    else:
        sys.exit("what is given can be changed")
    assert os.environ["MAX_JOBS"] == "3", os.environ
    assert os.environ["TINY_ARCHS"] == "90", os.environ
    assert "SLIPWORKS_CACHE" not in os.environ
    codes = [word for each in (80, 90, 120) for word in ("-gencode", f"arch=compute_{each},code=sm_{each}")]
    subprocess.run([*shlex.split(os.environ["PYTORCH_NVCC"]), *codes, "-o", "made.so"], check=True)
    short = "".join(map(str, sys.version_info[:2]))
    name = f"tiny-1-cp{short}-cp{short}-linux_{os.uname().machine}.whl"
    with zipfile.ZipFile(os.path.join(folder, name), "w") as wheel:
        wheel.write("made.so", "tiny.so")
        wheel.writestr("tiny-1.dist-info/METADATA", "Metadata-Version: 2.1\\nName: tiny\\nVersion: 1\\n")
    return name
"""


def sdist(folder: Path, **texts: str | bytes) -> Path:
    """tiny-1.tar.gz with these files; `__` in a name is a folder, a name in bin is executable."""
    top = folder / "tiny-1"
    for name, text in texts.items():
        path = top / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        path.chmod(0o755 if path.parent.name == "bin" else 0o644)
    with tarfile.open(folder / "tiny-1.tar.gz", "w:gz") as archive:
        archive.add(top, "tiny-1")
    return folder / "tiny-1.tar.gz"


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with setuptools of the hash lock, and no wheel package, as in the images."""
    from uv import find_uv_bin

    need(shutil.which("gcc"), "gcc is not installed")
    folder = tmp_path_factory.mktemp("environment")
    for argv in (
        ["venv", "--no-project", "--python", sys.executable, folder],
        ["pip", "install", "--python", folder / "bin/python", "--require-hashes", "--no-deps",
         "--only-binary", ":all:", "--requirement", ROOT / "definitions/tools/build.lock"],
    ):  # fmt: skip
        done = subprocess.run([find_uv_bin(), "--quiet", *argv], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return folder / "bin/python"


def built(python: Path, source: Path, place: Path) -> subprocess.CompletedProcess[str]:
    place.mkdir()
    argv = [python, "-I", native_build.__file__, source, place, ""]
    return subprocess.run(argv, env={"PATH": os.defpath}, capture_output=True, text=True, check=False)


def test_a_real_compiler_builds_the_same_wheel_twice(python: Path, tmp_path: Path) -> None:
    source = sdist(tmp_path, setup_dot_py=C_SETUP, tiny_dot_c=C_CODE)
    found = []
    for _ in range(2):
        done = built(python, source, tmp_path / "a place")
        assert done.returncode == 0, done.stdout + done.stderr
        (wheel,) = (tmp_path / "a place/wheels").iterdir()
        found.append((wheel.name, wheel.read_bytes()))
        assert done.stdout.splitlines()[-1] == wheel.name
        shutil.unpack_archive(wheel, tmp_path / "site", "zip")
        shutil.rmtree(tmp_path / "a place")
    assert found[0] == found[1]
    run = [python, "-c", "import tiny; print(tiny.__file__)"]
    environment = {"PYTHONPATH": str(tmp_path / "site")}
    imported = subprocess.run(run, env=environment, capture_output=True, text=True, check=True)
    assert imported.stdout.startswith(str(tmp_path / "site"))


def test_a_setup_that_would_download_instead_fails(python: Path, tmp_path: Path) -> None:
    done = built(python, sdist(tmp_path, setup_dot_py=FETCHING_SETUP), tmp_path / "place")
    assert done.returncode == 1
    assert "a build may not connect to anything" in done.stderr


# -- by an engine -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cpu() -> Made:
    """The cpu image of the user's own store, in the first engine that runs it."""
    return images.make("cpu", to_run=True)


@pytest.fixture
def order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Order:
    """tiny for an H100, its sources at hand, in a cache of the test's own."""
    monkeypatch.setenv("SLIPWORKS_CACHE", str(tmp_path / "it's, a cache"))
    source = sdist(
        tmp_path,
        pyproject_dot_toml='[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n',
        backend_dot_py=BACKEND,
        cuda__bin__nvcc=NVCC,
        library_dot_bin=library(fat(90), Platform.host().machine),
    )
    sha256 = digest_file(source).removeprefix("sha256:")
    kept = wheels.house().root / "sources" / sha256
    kept.mkdir(parents=True)
    shutil.copy(source, kept)
    home = f"{wheel_making.PLACE}/source/tiny-1/cuda"
    extension = Extension(
        name="tiny", version="1", sha256=sha256, module="tiny", memory=1,
        environment={"TINY_ARCHS": "{numbers}", "CUDA_HOME": home},
    )  # fmt: skip
    return Order(
        extension=extension, arch=archs.load("h100"), line=replace(lines.load("cu13"), extensions=("tiny",)),
        base=planning.base_of("bootstrap"), platform=Platform.host(), torch="2.13.0",
    )  # fmt: skip


def compiled(order: Order, cpu: Made) -> Kept:
    assert cpu.engine is not None
    return wheel_making.compile(order, cpu.engine, lambda: cpu.reference, 3)


def test_the_whole_way(cpu: Made, order: Order) -> None:
    kept = compiled(order, cpu)
    assert (kept.origin, kept.codes) == ("compiled", ("sm_90",))
    assert kept.seconds is not None
    assert wheels.house().checked(kept.wheel).stat().st_uid == os.getuid()
    assert compiled(order, cpu) == kept, "compiled a second time"
    assert not list((wheels.house().root.parent / "scratch").iterdir())


def test_a_failure_tells_its_reason_and_keeps_the_log(cpu: Made, order: Order) -> None:
    variables = order.extension.environment | {"TINY_ARCHS": "90"}
    for_a100 = replace(
        order,
        arch=replace(order.arch, compute_capabilities=("8.0",)),
        extension=replace(order.extension, environment=variables),
    )
    with pytest.raises(BuildError, match=r"error: asked for another GPU: .*sm_80") as caught:
        compiled(for_a100, cpu)
    assert caught.value.hint is not None
    assert Path(caught.value.hint.removeprefix("less ")).read_text()
    assert wheels.house().list() == ()
    assert not list((wheels.house().root.parent / "scratch").iterdir())
