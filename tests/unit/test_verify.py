"""Proofs of small images made of real files: the whole passes, and each wrong thing is told by its check."""

from __future__ import annotations

import lzma
import os
import re
from pathlib import Path

import pytest

from containers.findings import Finding, Report
from kit.exemptions import Exemption
from kit.nouns import Platform
from tests.unit import parts_proof as parts
from tests.unit.parts_proof import GPU, HOST, LIB, LOCK, NCCL, SITE, TORCH, VLLM, Files, compiled, failed

SPARE = f"{VLLM}/spare.so"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return parts.base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return parts.stack(tmp_path_factory.mktemp("stack"))


class Proved:
    """Proves the image with some files of its stack changed (None: taken out), RECORDs made to fit."""

    def __init__(self, base: Files, plain: Files) -> None:
        self.base, self.plain = base, plain

    def __call__(self, changes: dict[str, bytes | None] | None = None, **expected: object) -> Report:
        files = {path: raw for path, raw in {**self.plain, **(changes or {})}.items() if raw is not None}
        files = parts.with_records(files)
        return parts.proof([self.base, files], **{"lock_digest": parts.lock_digest(files), **expected})


@pytest.fixture(scope="module")
def proved(base: Files, plain: Files) -> Proved:
    return Proved(base, plain)


def only(report: Report, check: str) -> Finding:
    found = failed(report, check)
    assert len(found) == 1, found
    return found[0]


def test_the_whole_passes_and_says_what_it_saw(proved: Proved) -> None:
    report = proved()
    assert not report.failed
    told = {each.subject: each.found for each in report.findings}
    assert told["torch"] == "a build for CUDA 13.0"
    assert told["torch libtorch_cuda.so for 9.0"] == "SASS sm_90 in 1: 1 of 2 fat binaries"
    assert told["vllm _C.abi3.so for 9.0"] == "SASS sm_90a in 1: 1 of 2 fat binaries"
    assert told["vllm _vllm_fa2_C.abi3.so for 9.0"].startswith("PTX (compiled on the node) compute_80 in 1")
    assert told["NCCL"] == "2.29.7+cuda13.2 as locked (2.29.7)"
    assert told["needed libraries"].endswith("of which 1 are loaded before by others")
    assert told["packages"].startswith("3 as locked")
    assert "2 scripts find theirs" in told["interpreter"]
    assert {each.status for each in report.findings} <= {"ok", "skipped"}


def test_a_cpu_torch(proved: Proved) -> None:
    """The real torch 2.8.0 for aarch64 of the package index says of itself what it is."""
    version = (GPU / "cpu-torch-version.py.txt").read_bytes()
    # Its metadata, and so a lock, know no difference: the same version, the same name.
    real = {
        f"{TORCH}/version.py": version,
        f"{parts.info('torch')}/METADATA": (GPU / "cpu-torch-METADATA").read_bytes(),
        LOCK: proved.plain[LOCK].replace(b"torch==2.13.0", b"torch==2.8.0"),
    }
    found = failed(proved(real), "torch")
    assert [each.found for each in found] == ["a CPU build: its version.py names no CUDA"]
    report = proved({f"{TORCH}/version.py": version, f"{TORCH}/lib/libtorch_cuda.so": None,
                     f"{VLLM}/loaded_later.so": None})  # fmt: skip
    assert {"torch", "gpu-code"} == {each.check for each in report.failed}
    assert any(each.found == "has no torch/lib/libtorch_cuda.so" for each in report.failed)


def test_torch_for_another_cuda(proved: Proved) -> None:
    report = proved({f"{TORCH}/version.py": b"cuda = '12.8'\n"})
    assert only(report, "torch").found == "a build for CUDA 12.8"


def test_a_library_of_another_platform(proved: Proved) -> None:
    if HOST.arch != "amd64":
        pytest.skip("the recorded foreign library is for aarch64, which is this machine's own")
    foreign = lzma.decompress((GPU / "libXau-aarch64.so.xz").read_bytes())
    found = only(proved({SPARE: foreign}), "platform")
    assert (found.found, found.expected, found.where) == ("aarch64", "x86_64", f"/{SPARE}")


def test_this_machines_files_in_an_image_for_another(proved: Proved) -> None:
    other = Platform("arm64" if HOST.arch == "amd64" else "amd64")
    found = [each for each in proved(platform=other).failed if each.check == "platform"]
    assert f"/{TORCH}/lib/libtorch_cuda.so" in {each.where for each in found}
    assert all(each.found == HOST.machine and each.expected == other.machine for each in found)


def test_not_a_whole_elf_file(proved: Proved, plain: Files) -> None:
    found = only(proved({SPARE: plain[NCCL][:3000]}), "platform")
    assert "as an ELF file" in found.found and found.where == f"/{SPARE}"


def stub(folder: Path, soname: str, *flags: str | Path) -> Path:
    """A library to link against, which is not put into the image."""
    (folder / "stub.so").write_bytes(
        compiled(folder, "int other(void) { return 1; }", f"-Wl,-soname,{soname}", *flags)
    )
    return folder / "stub.so"


def user(folder: Path, library: Path, *flags: str) -> bytes:
    calls = "int other(void); int answer(void) { return other(); }"
    return compiled(folder, calls, "-Wl,--no-as-needed", library, *flags)


def test_a_missing_library(proved: Proved, tmp_path: Path) -> None:
    found = only(proved({SPARE: user(tmp_path, stub(tmp_path, "libgone.so.1"))}), "libraries")
    assert (found.found, found.where) == ("needs libgone.so.1", f"/{SPARE}")


def test_a_library_of_the_drivers(proved: Proved, tmp_path: Path) -> None:
    report = proved({SPARE: user(tmp_path, stub(tmp_path, "libcuda.so.1"))})
    assert not report.failed
    assert any("libcuda.so.1 1 times by the driver" in each.found for each in report.findings)


def test_a_program_has_nobody_who_loads_for_it(proved: Proved, tmp_path: Path) -> None:
    library = stub(tmp_path, "libbeside.so")
    (tmp_path / "main.c").write_text("int other(void); int main(void) { return other(); }")
    tool = parts.made(tmp_path, "gcc", "-o", tmp_path / "made", tmp_path / "main.c", library)
    changes = {f"{VLLM}/libs/libbeside.so": library.read_bytes(), f"{VLLM}/tool": tool}
    assert only(proved(changes), "libraries").where == f"/{VLLM}/tool"
    libraries = {
        "usr/lib/own/libuser.so": user(tmp_path, library),
        "usr/lib/own/libbeside.so": library.read_bytes(),
    }
    assert not proved(libraries).failed
    elsewhere = {"usr/lib/other/libbeside.so": library.read_bytes(), "usr/lib/own/libbeside.so": None}
    assert only(proved({**libraries, **elsewhere}), "libraries").where == "/usr/lib/own/libuser.so"
    rpath = ("-Wl,-rpath,$ORIGIN/libs", "-Wl,--disable-new-dtags")
    changes[f"{VLLM}/tool"] = parts.made(
        tmp_path, "gcc", "-o", tmp_path / "made", tmp_path / "main.c", library, *rpath
    )
    assert not proved(changes).failed


def test_a_newer_glibc_than_the_bases(proved: Proved, tmp_path: Path) -> None:
    script = tmp_path / "versions"
    script.write_text("GLIBC_2.99 { global: other; };\n")
    library = stub(tmp_path, "libc.so.6", f"-Wl,--version-script,{script}", "-nostdlib")
    found = only(proved({SPARE: user(tmp_path, library, "-nostdlib")}), "symbols")
    assert found.found == "needs GLIBC_2.99"
    newest = os.confstr("CS_GNU_LIBC_VERSION").split()[1]  # of this machine, whose glibc the image has
    assert found.expected == f"/{LIB}/libc.so.6 has GLIBC_{newest} at most"


def test_a_self_contained_layer_goes_by_its_own_glibc(proved: Proved, tmp_path: Path) -> None:
    """The runner's layer brings a newer glibc than the base's; beside no loader it would be the base's."""
    script = tmp_path / "versions"
    script.write_text("GLIBC_2.99 { global: other; };\n")
    library = stub(tmp_path, "libc.so.6", f"-Wl,--version-script,{script}", "-nostdlib")
    changes: dict[str, bytes | None] = {
        "own/lib/libuser.so": user(tmp_path, library, "-nostdlib"),
        "own/lib/libc.so.6": library.read_bytes(),
    }
    assert only(proved(changes), "symbols").where == "/own/lib/libuser.so"
    assert not proved({**changes, "own/lib/ld-linux-x86-64.so.2": library.read_bytes()}).failed


def test_text_is_no_code(proved: Proved, tmp_path: Path) -> None:
    says = 'const char *says = "sm_90 sm_90a compute_90 .target sm_90";'
    report = proved({f"{TORCH}/lib/libtorch_cuda.so": parts.gpu_library(tmp_path, "sm_80", source=says)})
    found = only(report, "gpu-code")
    assert (found.subject, found.found) == ("torch libtorch_cuda.so for 9.0", "has sass sm_80")
    report = proved({f"{VLLM}/_C.abi3.so": compiled(tmp_path, says)})
    assert only(report, "gpu-code").found == "has no GPU code at all"


def for_gpus(*capabilities: str) -> dict[str, tuple[str, ...]]:
    return {"capabilities": capabilities, "label_capabilities": capabilities}


def test_code_for_each_gpu_of_an_arch(proved: Proved) -> None:
    found = failed(proved(**for_gpus("8.0", "9.0", "10.0")), "gpu-code")
    assert {each.subject for each in found} == {
        "torch libtorch_cuda.so for 10.0", "vllm _C.abi3.so for 10.0", "vllm _moe_C.abi3.so for 10.0",
    }  # fmt: skip
    told = {each.subject: each.found for each in proved(**for_gpus("10.0")).findings}
    assert told["vllm _vllm_fa3_C.abi3.so for 10.0"].startswith("SASS sm_100f in 1")
    assert told["nvidia-nccl-cu13 libnccl.so.2 for 10.0"].startswith(
        "PTX (compiled on the node) compute_100f"
    )


def test_no_attention_for_the_gpu(proved: Proved) -> None:
    found = only(proved({f"{VLLM}/vllm_flash_attn/_vllm_fa2_C.abi3.so": None}), "gpu-code")
    assert found.found == "none of vllm/vllm_flash_attn/_vllm_fa3_C.abi3.so has it"


def test_another_nccl(proved: Proved, tmp_path: Path) -> None:
    def nccl(version: str) -> bytes:
        return parts.gpu_library(tmp_path, "sm_90", source=f'const char *says = "NCCL version {version}";')

    for version in ("2.27.5+cuda13.0", "2.29.7+cuda12.9"):
        assert only(proved({NCCL: nccl(version)}), "nccl").found == version
    assert only(proved({NCCL: nccl("unknown")}), "nccl").found == "no version in its text"
    second = f"{VLLM}/libnccl.so.2"
    assert only(proved({second: nccl("2.27.5+cuda13.0")}), "nccl").where == f"/{second}"


def test_a_changed_file(base: Files, plain: Files) -> None:
    files = parts.with_records(plain)
    changed = {**files, f"{TORCH}/version.py": files[f"{TORCH}/version.py"].replace(b"hip", b"HIP")}
    found = only(parts.proof([base, changed]), "packages")
    assert (found.subject, found.found) == ("torch", "is changed: another hash")
    found = only(
        parts.proof([base, files, {f"{TORCH}/version.py": files[f"{TORCH}/version.py"] + b"#\n"}]), "packages"
    )
    assert re.fullmatch(r"has \d+ bytes of \d+", found.found)
    found = only(parts.proof([base, files, {f"{VLLM}/.wh.loaded_later.so": b""}]), "packages")
    assert (found.found, found.where) == ("is missing", f"/{VLLM}/loaded_later.so")


def test_byte_code_that_a_wheel_brings_is_compiled_anew(base: Files, plain: Files) -> None:
    cached = f"{TORCH}/__pycache__/version.cpython-313.pyc"
    files = parts.with_records({**plain, cached: b"of the wheel"})
    assert not parts.proof([base, files, {cached: parts.BYTE_CODE}]).failed


def test_a_file_of_no_package(base: Files, plain: Files) -> None:
    files = parts.with_records(plain)
    more = {f"{SITE}/sitecustomize.py": b"x", f"{TORCH}/__pycache__/version.cpython-313.pyc": parts.BYTE_CODE}
    found = only(parts.proof([base, {**files, **more}]), "packages")
    assert (found.found, found.where) == ("belongs to no package", f"/{SITE}/sitecustomize.py")
    beside = {f"{TORCH}/lib/libtorch.so": b"-> libtorch_cuda.so", f"{TORCH}/lib64": b"-> lib"}
    assert not parts.proof([base, {**files, **beside}]).failed
    away = {
        f"{SITE}/sitecustomize.py": b"-> /opt/stack/bin/tool",
        f"{SITE}/usercustomize.py": b"-> torch/version.py",
    }
    assert len(failed(parts.proof([base, {**files, **away}]), "packages")) == 2


def test_packages_and_lock(proved: Proved, plain: Files) -> None:
    lock = plain[LOCK]
    found = only(proved({LOCK: lock + b"wandb==0.30.0 \\\n"}), "packages")
    assert (found.subject, found.found, found.expected) == ("wandb", "is not installed", "version 0.30.0")
    found = only(proved({LOCK: lock.replace(b"vllm==0.30.0", b"vllm==0.30.1")}), "packages")
    assert (found.subject, found.found, found.expected) == ("vllm", "version 0.30.0", "version 0.30.1")
    without = {LOCK: lock.replace(b"vllm==0.30.0 \\\n", b"")}
    assert only(proved(without), "packages").expected == "not in the lock"
    assert not proved(without, left_out=("vllm",)).failed
    assert only(proved(lock_digest="sha256:" + 64 * "0"), "packages").where == f"/{LOCK}"


def test_no_lock_at_all(base: Files, plain: Files) -> None:
    files = parts.with_records({path: raw for path, raw in plain.items() if path != LOCK})
    report = parts.proof([base, files])
    assert {(each.check, each.found) for each in report.failed} == {
        ("packages", "no lock in the image"), ("nccl", "no nvidia-nccl-cu… in the lock"),
    }  # fmt: skip


def test_an_executable_stack(proved: Proved, tmp_path: Path) -> None:
    found = only(proved({SPARE: compiled(tmp_path, parts.SOURCE, "-Wl,-z,execstack")}), "stacks")
    assert found.where == f"/{SPARE}"


def test_an_interpreter_outside(proved: Proved) -> None:
    found = failed(proved({"opt/stack/bin/python": b"-> /home/who/.pyenv/bin/python3.13"}), "interpreter")
    assert found[0].found == "leads to /home/who/.pyenv/bin/python3.13, which is not there"
    assert found[1].found == "asks for /opt/stack/bin/python"  # the script beside it
    shebang = {"opt/stack/bin/tool": b"#!/home/who/stack/bin/python\n"}
    assert only(proved(shebang), "interpreter").found == "asks for /home/who/stack/bin/python"
    assert (
        only(proved({"opt/stack/bin/tool": b"#!/usr/bin/env -S pypy3 -u\n"}), "interpreter").found
        == "asks for pypy3"
    )
    assert (
        only(proved({"opt/stack/bin/python": b"-> /usr/bin/gcc-14"}), "interpreter").expected == "Python 3.13"
    )


def test_the_driver(proved: Proved) -> None:
    assert (
        only(proved(label_floor="525", driver_floor="525"), "driver").expected == "580 or newer for CUDA 13"
    )
    assert only(proved(label_floor=None, driver_floor=None), "driver").found == "floor not stated"
    assert only(proved(label_floor="590"), "driver").expected == "580, by the definitions"


def test_what_no_script_made(base: Files, plain: Files) -> None:
    gone = ("etc/ssl/certs/ca-certificates.crt", "etc/passwd", "etc/alternatives/cc", "etc/ld.so.cache")
    without = {path: raw for path, raw in base.items() if path not in gone}
    found = failed(parts.proof([without, parts.with_records(plain)]), "system")
    assert [each.subject for each in found] == ["certificates", "accounts", "compiler", "loader's cache"]
    empty = {**base, "etc/ssl/certs/ca-certificates.crt": b"", f"{LIB}/libgcc_s.so.1": b"-> gone"}
    report = parts.proof([empty, parts.with_records(plain)])
    assert [each.found for each in report.failed if each.check == "system"] == [
        "0 bytes",
        f"leads to /lib/{HOST.machine}-linux-gnu/libgcc_s.so.1",
    ]


def test_an_exemption_is_told_with_its_reason(proved: Proved, tmp_path: Path) -> None:
    library = user(tmp_path, stub(tmp_path, "libgone.so.1"))
    rule = Exemption(
        check="libraries", paths=("*/vllm/*",), names=("libgone.so.*",), reason="nobody loads it"
    )
    report = proved({SPARE: library}, exemptions=(rule,))
    found = [each for each in report.findings if each.status == "excepted"]
    assert [(each.where, each.expected) for each in found] == [(f"/{SPARE}", "nobody loads it")]
    assert not report.failed and report.counts()["excepted"] == 1
    other = Exemption(check="libraries", paths=("*/vllm/*",), names=("libother.so.*",), reason="another")
    assert proved({SPARE: library}, exemptions=(other,)).failed


def test_without_cuda(base: Files) -> None:
    files = {path: raw for path, raw in base.items() if not path.startswith("etc/ld.so.cache")}
    lock = {LOCK: b"", "opt/stack/bin/python": b"-> /usr/bin/python3.13"}
    report = parts.proof([files, lock], cuda=None, capabilities=(), label_floor=None, driver_floor=None)
    assert not report.failed
    assert {each.check for each in report.findings if each.found == "not needed: no CUDA"} == {
        "torch", "gpu-code", "nccl", "driver",
    }  # fmt: skip


def test_somebody_elses_image(base: Files) -> None:
    report = parts.proof([base], line=None, cuda=None, capabilities=(), python=None)
    assert not report.failed
    unknown = {each.check for each in report.findings if each.status == "unknown"}
    assert unknown == {"interpreter", "packages", "torch", "gpu-code", "nccl", "driver"}


def test_an_image_does_not_choose_what_it_is_asked(proved: Proved) -> None:
    for says in ((), ("90a",), ("8.0",), ("9.0", "10.0")):
        found = only(proved(label_capabilities=says), "gpu-code")
        assert (found.found, found.expected) == (f"for {' '.join(says) or 'none'}", "9.0, by the definitions")
    assert only(proved(capabilities=()), "gpu-code").expected == "an arch with GPUs"
    found = only(proved(lock_digest=None), "packages")
    assert (found.expected, found.where) == ("its digest (label slipworks.lock)", f"/{LOCK}")


def test_byte_code_is_checked_by_hash(base: Files, plain: Files) -> None:
    cached = f"{TORCH}/__pycache__/version.cpython-313.pyc"
    for raw in (b"", b"\xf3\r\r\n", b"\xf3\r\r\n\0\0\0\0" + bytes(90), b"\xf3\r\r\n\1\0\0\0" + bytes(90)):
        for brought in ({}, {cached: raw}):  # by a wheel, too
            files = parts.with_records({**plain, **brought})
            found = only(parts.proof([base, {**files, cached: raw}]), "packages")
            assert (found.subject, found.where) == ("byte code", f"/{cached}")
    legacy = parts.with_records({**plain, f"{TORCH}/legacy.pyc": b"of the wheel, held to its RECORD"})
    assert not parts.proof([base, legacy]).failed


@pytest.mark.parametrize("script", [b"#!\n", b"#!", b"#!  \nx", b"#!/bin/sh\n'''exec' \"$x 'y\n"])
def test_a_script_that_asks_for_nothing(proved: Proved, script: bytes) -> None:
    found = only(proved({"opt/stack/bin/tool": script}), "interpreter")
    assert (
        found.found.startswith("asks for nothing that can be told") and found.where == "/opt/stack/bin/tool"
    )


def test_a_record_of_nonsense(base: Files, plain: Files) -> None:
    files, record = parts.with_records(plain), f"{parts.info('torch')}/RECORD"
    for size in (b"1k", b"9" * 5000, "²".encode()):
        row = b"torch/version.py,," + size + b"\n"
        found = only(parts.proof([base, {**files, record: files[record] + row}]), "packages")
        assert found.found.startswith("has ") and found.where == f"/{TORCH}/version.py"
    found = failed(parts.proof([base, {**files, record: b"x" * 140_000 + b",,\n"}]), "packages")
    assert found[0].found.startswith("has a RECORD that cannot be read: field larger than")


def test_a_floor_of_nonsense(proved: Proved) -> None:
    for floor in ("²", "9" * 5000):
        assert failed(proved(label_floor=floor), "driver")


def test_versions_of_what_others_load_before(proved: Proved, tmp_path: Path) -> None:
    def library(version: str) -> Path:
        script = tmp_path / "versions"
        script.write_text(f"{version} {{ global: other; }};\n")
        return stub(tmp_path, "libbundled.so.1", f"-Wl,--version-script,{script}")

    old, new = library("GCC_9.0").read_bytes(), library("GCC_99.0")
    changes = {SPARE: user(tmp_path, new), f"{VLLM}/libs/libbundled.so.1": new.read_bytes()}
    assert not proved(changes).failed
    found = only(proved({**changes, f"{VLLM}/libs/libbundled.so.1": old}), "symbols")
    assert (found.found, found.where) == ("needs GCC_99.0", f"/{SPARE}")
    odd = library("GCC_9..0").read_bytes()
    assert only(proved({**changes, f"{VLLM}/libs/libbundled.so.1": odd}), "symbols").expected.endswith(
        "libbundled.so.1 has no GCC at most"
    )
