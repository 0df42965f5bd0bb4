"""The host's network libraries against what an image has, by this machine's own ELF files."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from msgspec.structs import replace

from containers import elf
from runner import fabric, fixing
from runner.facts import Facts
from runner.fixing import facts_like, launch_like
from runner.python_packages import Nccl
from slurm import clusters
from slurm.fabric import Fabric
from tests.unit.test_mig import TWO, lines

MACHINE = Path("/proc/self/maps").read_text()


def loaded(name: str) -> Path:
    """A library that this very process has loaded."""
    return Path(re.findall(rf"\S*/{re.escape(name)}$", MACHINE, re.MULTILINE)[0])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An image that has the C library of this machine."""
    folder = tmp_path / "image/lib64"
    folder.mkdir(parents=True)
    for name in ("libc.so.6", "libm.so.6"):
        shutil.copy(loaded(name), folder)
    for needed in elf.read(loaded("libm.so.6")).needed + elf.read(loaded("libc.so.6")).needed:
        if not (folder / needed).exists():
            shutil.copy(loaded(needed) if needed in MACHINE else loaded("libc.so.6").parent / needed, folder)
    return tmp_path / "image"


@pytest.fixture
def bound(tmp_path: Path) -> Path:
    folder = tmp_path / "fabric"
    folder.mkdir()
    return folder


def host_library(path: Path, **changed: str) -> None:
    """libm under another name; strings that it holds are changed to others of the same length."""
    raw = loaded("libm.so.6").read_bytes()
    for old, new in changed.items():
        was, now = old.replace("__", ".").encode() + b"\0", new.encode() + b"\0"
        assert len(was) == len(now) and was in raw
        raw = raw.replace(was, now)
    path.write_bytes(raw)


def newest() -> str:
    """The newest glibc version that libm needs, as GLIBC_2__34 for a keyword."""
    claims = elf.read(loaded("libm.so.6"))
    found = [name for name in claims.versions["libc.so.6"] if re.fullmatch(r"GLIBC_2\.\d+(\.\d)?", name)]
    return max(found, key=lambda name: [int(part) for part in re.findall(r"\d+", name)])


def test_nothing_is_wrong_with_what_the_image_can_load(root: Path, bound: Path) -> None:
    host_library(bound / "libfabric.so.1")
    (bound / "a text").write_text("not a library")
    assert fabric.wrong(folder=bound, root=root) == ()
    assert fabric.names(bound) == ("a text", "libfabric.so.1")


def test_without_a_network_of_the_host_nothing_is_asked(root: Path, tmp_path: Path) -> None:
    assert fabric.wrong(folder=tmp_path / "none", root=root) == ()
    assert fabric.names(tmp_path / "none") == ()


def test_a_missing_library_is_named(root: Path, bound: Path) -> None:
    host_library(bound / "libfabric.so.1", libc__so__6="libx.so.6")
    (told,) = fabric.wrong(folder=bound, root=root)
    assert told == f"libfabric.so.1 needs libx.so.6, which is neither in the image nor in {bound}"
    host_library(bound / "libx.so.6")  # bound as well: then it is there, though without the versions
    assert all("neither" not in line for line in fabric.wrong(folder=bound, root=root))


def test_a_newer_glibc_is_named(root: Path, bound: Path) -> None:
    version = newest()
    host_library(bound / "libnccl-net.so", **{version.replace(".", "__"): version.replace("_2.", "_9.")})
    (told,) = fabric.wrong(folder=bound, root=root)
    assert told.startswith(f"libnccl-net.so needs {version.replace('_2.', '_9.')} of libc.so.6, which ")
    assert told.endswith("lib64/libc.so.6 has not")


def test_the_hosts_c_library_is_refused(root: Path, bound: Path) -> None:
    shutil.copy(loaded("libc.so.6"), bound / "libc.so.6")
    told = fabric.wrong(folder=bound, root=root)
    assert told == ("libc.so.6 is the host's C library, which no container may have",)
    for name in ("libcxi.so.1", "libcurl.so.4", "libmlx5.so.1", "libcrypto.so.3"):
        assert not fabric.C_LIBRARY.fullmatch(name)
    for name in ("ld-linux-aarch64.so.1", "libpthread.so.0", "libc-2.31.so", "libm.so.6"):
        assert fabric.C_LIBRARY.fullmatch(name)


def test_a_library_of_another_machine_is_none(root: Path, bound: Path) -> None:
    host_library(bound / "libfabric.so.1")
    raw = bytearray((root / "lib64/libc.so.6").read_bytes())
    raw[18:20] = (190).to_bytes(2, "little")  # e_machine
    (root / "lib64/libc.so.6").write_bytes(raw)
    assert any("needs libc.so.6, which is neither" in line for line in fabric.wrong(folder=bound, root=root))


def test_cudas_libraries_come_with_python(root: Path, bound: Path, tmp_path: Path) -> None:
    host_library(bound / "libnccl-net.so", libc__so__6="libx.so.6")
    there = tmp_path / "site/nvidia/cuda_runtime/lib"
    there.mkdir(parents=True)
    shutil.copy(loaded("libc.so.6"), there / "libx.so.6")
    assert fabric.wrong([tmp_path / "site"], folder=bound, root=root) == ()


def test_the_library_path_of_the_image_is_searched(root: Path, bound: Path) -> None:
    host_library(bound / "libnccl-net.so", libc__so__6="libx.so.6")
    (root / "driver").mkdir()
    shutil.copy(loaded("libc.so.6"), root / "driver/libx.so.6")
    assert fabric.wrong(env={"LD_LIBRARY_PATH": "/nowhere:/driver"}, folder=bound, root=root) == ()


SLINGSHOT = Fabric(
    kind="slingshot",
    devices=("/dev/cxi*",),
    libraries=("/opt/aws-ofi-nccl/lib/libnccl-net*.so",),
    environment={"NCCL_NET": "AWS Libfabric"},
)
GOOD = facts_like(
    gpus=lines(TWO), fabric=("libfabric.so.1", "libnccl-net.so"), devices=("/dev/cxi0", "/dev/cxi1")
)


@pytest.mark.parametrize(
    ("facts", "missing"),
    [
        (GOOD, None),
        (replace(GOOD, devices=()), "there is no /dev/cxi*"),
        (replace(GOOD, fabric=("libfabric.so.1",)), "no libnccl-net*.so among /opt/aws-ofi-nccl"),
        (
            replace(GOOD, fabric_wrong=("libfabric.so.1 needs libcxi.so.1",)),
            "libfabric.so.1 needs libcxi.so.1",
        ),
        (replace(GOOD, gpus=(), devices=()), None),  # nothing here uses NCCL
    ],
)
def test_a_network_that_was_asked_for_is_there_or_its_missing_piece_is_named(
    facts: Facts, missing: str | None
) -> None:
    launch, _ = fixing.fixed(facts, launch_like(nodes=2, fabric=SLINGSHOT))
    refused = fixing.load("host_fabric").refuses(facts, launch)  # type: ignore[attr-defined]
    assert (missing is None) == (refused is None)
    if missing:
        assert missing in refused.message and "NCCL_NET='AWS Libfabric'" in refused.message


def test_without_being_asked_for_it_is_a_warning() -> None:
    facts = replace(GOOD, devices=())
    fabric = Fabric(kind="infiniband", devices=("/dev/infiniband",))
    launch, _ = fixing.fixed(facts, launch_like(nodes=2, fabric=fabric))
    assert fixing.refusal(facts, launch) is None
    told = {each.name: each.reason for each in fixing.warnings(facts, launch)}
    assert told["host_fabric"] == "NCCL may fall back to TCP: there is no /dev/infiniband"
    there = replace(facts, devices=("/dev/infiniband/uverbs0",))
    assert "host_fabric" not in {each.name for each in fixing.warnings(there, launch)}


def test_tcp_that_was_asked_for_is_given() -> None:
    launch = launch_like(nodes=2, fabric=SLINGSHOT, env={"NCCL_NET": "Socket"})
    assert fixing.refusal(replace(GOOD, devices=()), launch) is None


@pytest.mark.parametrize(("version", "value"), [("2.26.2", None), ("2.27.5", "^LL128"), ("2.30.7", "^LL128")])
def test_newer_nccl_keeps_off_ll128_on_isambard(version: str, value: str | None) -> None:
    facts = replace(GOOD, nccl=Nccl("/stack/libnccl.so.2", version))
    plan = launch_like(nodes=2, fabric=clusters.load("isambard").fabric)
    found = fixing.fixed(facts, plan)[0]
    assert found.env.get("NCCL_PROTO") == value and found.env["NCCL_NET"] == "AWS Libfabric"
