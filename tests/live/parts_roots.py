"""Real root file systems and the real layer, each made once a session."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from containers import apt, bootstrap, layer, system
from definitions import bases, layers
from kit import process
from kit.nouns import Base, LayerBuild, LayerSpec, Platform
from tests.live.needs import need

PYTHONS = {"bullseye": "3.9", "bookworm": "3.11", "trixie": "3.13", "noble": "3.12"}
NATIVE = Platform.host()
FOREIGN = Platform("amd64" if NATIVE.arch == "arm64" else "arm64")
CERTIFIED = ("ca-certificates", "python3.13")
IMAGE = ("g++", "gcc", "git", "ibverbs-providers", "libc6-dev", "libpython3.13-dev", "openssh-client", "tini")

CARRIED = re.compile(
    r"(?im)^(Acquire::(https?|ftp)::(\S+::)?(Proxy\S*|CaInfo|CaPath|SslCert|SslKey|Verify-\S+)"
    r"|Acquire::(Check-Valid-Until|Check-Date|Retries)) .*;$"
)


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


def need_root() -> None:
    need(os.geteuid() == 0, "a root file system can only be entered as root")


def unpack(tar: Path, folder: Path) -> Path:
    """A tar unpacked upon what a folder holds, links kept, as an engine would put a layer upon another."""
    folder.mkdir(exist_ok=True)
    argv = ["tar", "-C", folder, "--keep-directory-symlink", "-xf", tar]
    process.run(argv, what="unpack a root")
    return folder


def enter(root: Path, script: str, **env: str) -> str:
    """What a shell script prints in a root, with /proc and /dev and nothing of this machine's settings."""
    prepare = 'mount -t proc proc "$1/proc" && mount --rbind /dev "$1/dev" && exec chroot "$1" sh -euc "$2"'
    argv = ["unshare", "--mount", "--pid", "--fork", "sh", "-c", prepare, "sh", root, script]
    path = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
    done = subprocess.run(argv, env={"PATH": path, **env}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def reaching(root: Path) -> None:
    """Lets apt in a root use this machine's mirrors, as it does itself."""
    given = apt.sources("debian", "trixie", NATIVE)
    # The keys are the root's own; this machine's may lie where the root has none.
    text = re.sub(
        r"\[signed-by=[^\]]*\]", "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]", given.text
    )
    (root / "etc/apt/sources.list").write_text(text)
    dumped = process.run(["apt-config", "dump"], what="read apt's configuration").out
    lines = [match[0] for match in CARRIED.finditer(dumped)]
    (root / "etc/apt/apt.conf.d/99test").write_text("\n".join([*lines, ""]))
    for name in ("resolv.conf", "hosts"):
        shutil.copyfile(f"/etc/{name}", root / "etc" / name)


@pytest.fixture(scope="session")
def spec() -> LayerSpec:
    return layers.load("slipworks", "debian")


@pytest.fixture(scope="session")
def slipworks(spec: LayerSpec, tmp_path_factory: pytest.TempPathFactory) -> LayerBuild:
    """The layer for this machine's platform."""
    need_apt()
    out = tmp_path_factory.mktemp("layer") / "slipworks.tar.gz"
    return layer.build(spec, NATIVE, out, quiet)


@pytest.fixture(scope="session")
def root_tar(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """suite -> the tar of its root, bootstrapped when it is first asked for."""

    @cache
    def made(suite: str) -> Path:
        need_apt()
        out = tmp_path_factory.mktemp("tars") / f"{suite}.tar"
        bootstrap.root(base(suite), NATIVE, out, quiet)
        return out

    return made


@pytest.fixture(scope="session")
def rooted(
    root_tar: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """suite or "busybox" -> an unpacked root file system without the layer. Not to be changed."""
    made: dict[str, Path] = {}

    def root(name: str) -> Path:
        need_root()
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            made[name].chmod(0o755)  # it is the root folder of ordinary users too
            _busybox(made[name]) if name == "busybox" else unpack(root_tar(name), made[name])
        return made[name]

    return root


@pytest.fixture(scope="session")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tar of a root for the other platform, which nothing here could run."""
    need_apt()
    out = tmp_path_factory.mktemp("foreign") / "root.tar"
    bootstrap.root(base("trixie", CERTIFIED), FOREIGN, out, quiet)
    return out


@pytest.fixture(scope="session")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base of images, and upon it the layer of what they need beside wheels, unpacked."""
    need_apt()
    need_root()
    folder = tmp_path_factory.mktemp("furnished")
    ground = bases.load("bootstrap")
    bootstrap.root(ground, NATIVE, folder / "base.tar", quiet)
    root = unpack(folder / "base.tar", folder / "root")
    system.build(root, ground, IMAGE, NATIVE, folder / "system.tar", quiet)
    unpack(folder / "system.tar", root)
    for name in ("base.tar", "system.tar"):
        (folder / name).unlink()
    return root


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
