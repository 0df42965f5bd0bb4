"""The loader's cache, written by hand."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import pytest

from containers import ld_cache
from containers.ld_cache import Entry
from containers.root_tar import RootTar
from kit.nouns import Platform

AMD, ARM = Platform("amd64"), Platform("arm64")


def library(soname: str, machine: int = 62, kind: int = 3) -> bytes:
    """The smallest ELF file with a name of its own: header, two segments, dynamic section, strings."""
    strings = b"\0" + soname.encode() + b"\0"
    at = 64 + 2 * 56
    dynamic = struct.pack("<6Q", 5, 0x1000 + at + 48, 14, 1, 0, 0) if soname else struct.pack("<2Q", 0, 0)
    size = at + len(dynamic) + len(strings)
    head = b"\x7fELF\x02\x01\x01" + bytes(9)
    head += struct.pack("<HHIQQQIHHHHHH", kind, machine, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    load = struct.pack("<IIQQQQQQ", 1, 4, 0, 0x1000, 0x1000, size, size, 4096)
    named = struct.pack("<IIQQQQQQ", 2, 4, at, 0x1000 + at, 0x1000 + at, len(dynamic), len(dynamic), 8)
    return head + load + named + dynamic + strings


def lists(made: RootTar, platform: Platform = AMD) -> dict[str, str]:
    ld_cache.refresh(made, platform)
    return {each.name: each.path for each in ld_cache.decode(made.read("etc/ld.so.cache"))}


def test_what_a_library_calls_itself() -> None:
    def named(raw: bytes, platform: Platform = AMD) -> str | None:
        return ld_cache.own_name(io.BytesIO(raw), platform)

    assert named(library("libx.so.1")) == "libx.so.1"
    assert named(library("libx.so.1", 183), ARM) == "libx.so.1"
    assert named(library("")) == ""
    assert named(library("libx.so.1"), ARM) is None, "another machine's"
    assert named(library("libx.so.1", kind=2)) is None, "a program"
    assert named(b"/* GNU ld script */") is None and named(b"\x7fELF") is None
    assert named(library("libx.so.1")[:100]) is None, "cut off"


def test_the_loaders_order() -> None:
    """As glibc's own ldconfig sorts these: from high to low, digits as numbers and above all letters."""
    names = ["libz.so", "lib9.so", "lib10.so", "liba.so.2", "liba.so.10", "libA.so", "liba.so"]
    raw = ld_cache.encode([Entry(name, f"/lib/{name}") for name in names], AMD)
    assert [each.name for each in ld_cache.decode(raw)] == [
        "lib10.so", "lib9.so", "libz.so", "liba.so.10", "liba.so.2", "liba.so", "libA.so",
    ]  # fmt: skip


def test_the_bytes() -> None:
    raw = ld_cache.encode([Entry("liba.so", "/lib/liba.so")], ARM)
    assert raw[:20] == b"glibc-ld.so.cache1.1"
    assert struct.unpack_from("<IIB", raw, 20) == (1, len(b"liba.so\0/lib/liba.so\0"), 2)
    flags, name, path, version, processor = struct.unpack_from("<iIIIQ", raw, 48)
    assert (flags, version, processor) == (0x0A03, 0, 0)
    assert raw[name:].partition(b"\0")[0] == b"liba.so" and raw[path:] == b"/lib/liba.so\0"


@pytest.mark.parametrize("raw", [b"", b"x" * 80, ld_cache.encode([Entry("a", "b")], AMD)[:-1]])
def test_what_is_no_cache(raw: bytes) -> None:
    with pytest.raises(ValueError, match="not a cache of the loader"):
        ld_cache.decode(raw)


def test_names_and_links() -> None:
    made = RootTar()
    made.text("usr/lib/libone.so.1.2", library("libone.so.1"))
    made.link("usr/lib/libone.so", "libone.so.1.2")
    made.text("usr/lib/libtwo.so", library(""))
    made.link("usr/lib/libother.so.3", "libone.so.1.2")
    made.link("usr/lib/liblost.so", "nowhere")
    made.text("usr/lib/libscript.so", "GROUP ( /lib/libone.so )")
    made.text("usr/lib/libarm.so.1", library("libarm.so.1", 183))
    made.text("usr/lib/one.so", library("libnot.so"))
    assert lists(made) == {
        "libone.so.1": "/lib/libone.so.1", "libone.so": "/lib/libone.so", "libtwo.so": "/lib/libtwo.so",
    }  # fmt: skip
    assert made.read("usr/lib/libone.so.1") == library("libone.so.1"), "the link that ldconfig would make"
    assert lists(made, ARM) == {"libarm.so.1": "/lib/libarm.so.1"}


def test_folders_in_the_loaders_order() -> None:
    made = RootTar()
    made.text("etc/ld.so.conf", "# first\ninclude /etc/ld.so.conf.d/*.conf\n/opt/late\n")
    made.text("etc/ld.so.conf.d/b.conf", "/usr/lib/x86_64-linux-gnu /lib/x86_64-linux-gnu\n")
    made.text("etc/ld.so.conf.d/a.conf", "/usr/local/lib/ # ours\n/not/there\n")
    made.text("etc/ld.so.conf.d/c.off", "/opt/never\n")
    for folder in ("usr/local/lib", "usr/lib", "usr/lib/x86_64-linux-gnu", "opt/late", "opt/never"):
        made.text(f"{folder}/libx.so.1", library("libx.so.1"))
    assert ld_cache.folders(made) == ["usr/local/lib", "usr/lib/x86_64-linux-gnu", "opt/late", "lib"]
    ld_cache.refresh(made, AMD)
    found = ld_cache.decode(made.read("etc/ld.so.cache"))
    assert [each.path for each in found] == [
        f"/{folder}/libx.so.1" for folder in ("usr/local/lib", "usr/lib/x86_64-linux-gnu", "opt/late", "lib")
    ]


def test_upon_a_base(tmp_path: Path) -> None:
    (tmp_path / "usr/lib").mkdir(parents=True)
    (tmp_path / "lib").symlink_to("usr/lib")
    (tmp_path / "usr/lib/libold.so.1").write_bytes(library("libold.so.1"))
    made = RootTar(tmp_path)
    made.text("lib/libnew.so.1", library("libnew.so.1"))
    assert sorted(lists(made)) == ["libnew.so.1", "libold.so.1"]
    assert sorted(made.entries) == ["etc/ld.so.cache", "usr/lib/libnew.so.1"]
