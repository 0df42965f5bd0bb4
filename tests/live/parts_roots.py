"""Real root file systems and the real layer, each made once a session."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from containers import bootstrap, layer
from definitions import layers
from kit import process
from kit.nouns import Base, LayerBuild, LayerSpec, Platform
from tests.live.needs import need

PYTHONS = {"bullseye": "3.9", "trixie": "3.13", "noble": "3.12"}


def base(suite: str, packages: tuple[str, ...] = ()) -> Base:
    """A bootstrapped base of one suite, with its Python unless told otherwise."""
    python = PYTHONS[suite]
    return Base(
        name=suite, kind="bootstrap", reference=f"localhost/{suite}", digest=None, python=python,
        interpreter=f"/usr/bin/python{python}", suite=suite,
        distribution="ubuntu" if suite == "noble" else "debian", packages=packages or ("python3-minimal",),
    )  # fmt: skip


def quiet(_line: str) -> None:
    """Progress that nobody reads."""


def need_apt() -> None:
    need(bootstrap.host_distribution() == "debian", "the layer's tests need Debian's apt")


@pytest.fixture(scope="session")
def spec() -> LayerSpec:
    return layers.load("slipworks", "debian")


@pytest.fixture(scope="session")
def slipworks(spec: LayerSpec, tmp_path_factory: pytest.TempPathFactory) -> LayerBuild:
    """The layer for this machine's platform."""
    need_apt()
    out = tmp_path_factory.mktemp("layer") / "slipworks.tar.gz"
    return layer.build(spec, Platform.host(), out, quiet)


@pytest.fixture(scope="session")
def rooted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """suite or "busybox" -> an unpacked root file system without the layer. Not to be changed."""
    made: dict[str, Path] = {}

    def root(name: str) -> Path:
        need(os.geteuid() == 0, "a root file system can only be entered as root")
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            made[name].chmod(0o755)  # it is the root folder of ordinary users too
            _busybox(made[name]) if name == "busybox" else _unpacked(name, made[name])
        return made[name]

    return root


def _unpacked(suite: str, folder: Path) -> None:
    need_apt()
    need(shutil.which("mmdebstrap"), "mmdebstrap is not installed")
    tar = folder.with_suffix(".tar")
    bootstrap.root(base(suite), Platform.host(), tar, quiet)
    process.run(["tar", "-C", folder, "-xf", tar], what="unpack a root")
    tar.unlink()


def _busybox(folder: Path) -> None:
    """No libc, no /lib, no /etc: a static busybox and nothing else."""
    program = Path("/bin/busybox")
    need(program.exists(), "busybox-static is not installed")
    told = process.run(["ldd", program], what="look at busybox", check=False)
    need("not a dynamic" in told.out + told.err, "busybox-static is not installed, only a dynamic busybox")
    (folder / "bin").mkdir()
    shutil.copy(program, folder / "bin/busybox")
    for name in ("sh", "env", "ls"):
        (folder / "bin" / name).symlink_to("busybox")
    for name in ("tmp", "proc"):
        (folder / name).mkdir()
