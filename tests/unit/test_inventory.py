"""Inventories of layers, and what several make together: real tars, cut anywhere."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from containers import contents, elf, elf_format, fatbin, inventory
from containers.image_tree import ImageTree
from containers.inventory import Entry, Inventory
from kit.errors import InvalidFileError
from tests.unit import parts_proof as parts
from tests.unit.parts_proof import GPU, Files


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return parts.gpu_library(tmp_path_factory.mktemp("library"), "sm_90", "lz4")


def cut(raw: bytes, size: int) -> Iterator[bytes]:
    for at in range(0, len(raw), size):
        yield raw[at : at + size]


def test_equal_however_it_is_cut(library: bytes) -> None:
    raw = parts.tar({"a/libx.so": library, "b": b"#!/bin/sh\n" + bytes(3000), "c": b"", "d": b"-> a/libx.so"})
    whole = inventory.read([raw])
    assert [inventory.read(cut(raw, size)) for size in (7, 511, 512, 1000)] == [whole] * 4
    assert whole.entries[0] == Entry(
        "a/libx.so", "file", 0o755, len(library), hashlib.sha256(library).digest()
    )
    assert [str(code) for fat in whole.facts["a/libx.so"].fats for code in fat.codes] == [
        "compute_90", "sm_90", "sm_90",
    ]  # fmt: skip
    assert whole.facts["b"].text == "#!/bin/sh\n" + "\0" * (512 - 10)
    assert whole.entries[3] == Entry("d", "link", 0o644, target="a/libx.so")


def test_read_while_it_passes(library: bytes) -> None:
    raw = parts.tar({"a/libx.so": library, "b": b"#!/bin/sh\n" + bytes(3000), "c": b""})
    for size in (512, 10_000, len(raw)):
        told: list[Inventory] = []
        assert b"".join(inventory.beside(cut(raw, size), None, told.append)) == raw
        assert told == [inventory.read([raw])]


def test_what_cannot_be_read_passes_to_its_end_and_is_told(library: bytes) -> None:
    raw = parts.tar({"libx.so": library})[:-20_000] + bytes(50 * 512)
    damaged = b"no tar at all" * 100_000
    for broken in (damaged, raw[: len(raw) // 2]):
        passed: list[bytes] = []
        with pytest.raises(InvalidFileError, match="damaged"):
            passed.extend(inventory.beside(cut(broken, 5000), None, lambda _: pytest.fail("nothing to tell")))
        assert b"".join(passed) == broken


def test_nobody_waits_where_either_side_stops(library: bytes) -> None:
    raw = parts.tar({"libx.so": library})

    def breaking() -> Iterator[bytes]:
        yield raw[:1000]
        raise OSError("the source broke")

    with pytest.raises(OSError, match="the source broke"):
        list(inventory.beside(breaking(), None, lambda _: pytest.fail("it did not end")))
    taken = inventory.beside(cut(raw, 10), None, lambda _: pytest.fail("it did not end"))
    assert next(taken) == raw[:10]
    taken.close()  # type: ignore[attr-defined]


def test_spooled_where_memory_would_not_do(
    library: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = parts.tar({"libx.so": library, "x.fatbin": (GPU / "several.fatbin").read_bytes()})
    found = inventory.read([raw])
    monkeypatch.setattr(inventory, "IN_MEMORY", 100)
    assert inventory.read([raw], tmp_path) == found
    assert not list(tmp_path.iterdir())
    assert len(found.facts["x.fatbin"].fats[0].codes) == 5


def test_a_folder_is_read_as_its_tar(library: bytes, tmp_path: Path) -> None:
    root = tmp_path / "it's a root"
    (root / "usr/lib").mkdir(parents=True)
    (root / "usr/lib/libx.so").write_bytes(library)
    (root / "lib").symlink_to("usr/lib")
    (root / "run me").write_text("#!/usr/bin/env python3\n")
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for path in sorted(root.rglob("*")):
            tar.add(path, arcname=f"./{path.relative_to(root)}", recursive=False)
    assert inventory.read_folder(root) == inventory.read([out.getvalue()])


def test_kept_and_read_again(library: bytes) -> None:
    found = inventory.read([parts.tar({"libx.so": library})])
    raw = inventory.encode(found)
    assert inventory.decode(raw) == found
    assert inventory.decode(None) is None and inventory.decode(raw[:-1]) is None
    assert inventory.decode(inventory.encode(inventory.Inventory("another", (), {}))) is None


def test_damaged(library: bytes) -> None:
    raw = parts.tar({"libx.so": library})
    with pytest.raises(InvalidFileError, match="a layer is damaged"):
        inventory.read([raw[:2000]])
    with pytest.raises(InvalidFileError, match="a layer is damaged"):
        inventory.read([b"no tar at all" * 100])


def tree(*layers: Files) -> ImageTree:
    return ImageTree([inventory.read([parts.tar(each)]) for each in layers])


def files(found: ImageTree) -> set[str]:
    return {path for path, entry in found.entries.items() if entry.kind == "file"}


def test_whiteouts_hide_what_lies_below_only() -> None:
    lower = {"a/x": b"1", "a/b/y": b"1", "a/bc": b"1", "c/z": b"1"}
    assert files(tree(lower, {"a/.wh.b": b""})) == {"/a/x", "/a/bc", "/c/z"}
    assert files(tree(lower, {"a/.wh..wh..opq": b"", "a/new": b"2"})) == {"/a/new", "/c/z"}
    assert files(tree(lower, {"a/new": b"2", "a/.wh..wh..opq": b""})) == {"/a/new", "/c/z"}
    assert files(tree(lower, {".wh.a": b""}, {"a/x": b"3"})) == {"/a/x", "/c/z"}
    assert files(tree(lower, {"a": b"a file now"})) == {"/a", "/c/z"}


def test_a_later_layers_file_is_the_one(library: bytes) -> None:
    found = tree({"x.so": library, "y.so": b"text"}, {"x.so": b"text", "y.so": library})
    assert found.elf("/x.so") is None and found.elf("/y.so") is not None
    assert found.entries["/x.so"].size == 4


def test_links_are_followed_inside() -> None:
    found = tree({
        "usr/lib/x.so.1": b"#!x", "lib": b"-> usr/lib", "usr/lib/x.so": b"-> x.so.1",
        "up": b"-> ../../../lib/x.so", "loop": b"-> loop", "far": b"-> /usr/gone", "abs": b"-> /lib/x.so",
    })  # fmt: skip
    for path in ("/lib/x.so", "/up", "/abs", "/usr/lib/../lib/./x.so.1"):
        assert found.real(path) == "/usr/lib/x.so.1"
    assert found.text("/lib/x.so") == "#!x"
    assert found.real("/loop") is None and found.entry("/far") is None
    assert found.real("/lib/none") is None


def test_hard_links(library: bytes) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, target in (("same.so", "x.so"), ("lower.so", "below.so")):
            info = tarfile.TarInfo("x.so")
            info.size = len(library)
            if name == "same.so":
                tar.addfile(info, io.BytesIO(library))
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.LNKTYPE, target
            tar.addfile(link)
    found = ImageTree([inventory.read([parts.tar({"below.so": library})]), inventory.read([out.getvalue()])])
    for path in ("/x.so", "/same.so", "/lower.so"):
        assert found.elf(path) is not None
        assert found.entries[path].sha256 == hashlib.sha256(library).digest()


def test_another_text_of_what_reads_makes_another_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = inventory.read([parts.tar({"x": b"#!/bin/sh\n"})])
    for module in (contents, fatbin, elf, elf_format, inventory):
        changed = tmp_path / "changed.py"
        changed.write_bytes(Path(str(module.__file__)).read_bytes() + b"# more\n")
        with monkeypatch.context() as other:
            other.setattr(module, "__file__", str(changed))
            inventory.form.cache_clear()
            assert inventory.decode(inventory.encode(found)) is None
    inventory.form.cache_clear()
    assert inventory.decode(inventory.encode(found)) == found


def test_headers_of_byte_code_of_the_stack_are_kept() -> None:
    found = inventory.read([parts.tar({"opt/stack/a.pyc": parts.BYTE_CODE, "usr/b.pyc": parts.BYTE_CODE})])
    assert {path: facts.header for path, facts in found.facts.items()} == {
        "opt/stack/a.pyc": parts.BYTE_CODE[:16]
    }
