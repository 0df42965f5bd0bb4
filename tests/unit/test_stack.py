"""Layers of a stack: their key, their tar, the environment in it, CUDA's folder. Nothing is installed."""

from __future__ import annotations

import importlib.util
import io
import os
import tarfile
from pathlib import Path
from types import ModuleType

import pytest
from elftools.elf.elffile import ELFFile
from msgspec import structs

from containers import stack, stack_site, stack_tar
from containers.root_tar import MTIME
from definitions import render
from kit.errors import BuildError
from kit.nouns import Group, Platform, StackLayer, Wheel

SPEC = StackLayer(
    group=Group(name="rest", lock="a==1 --hash=sha256:00\n"),
    platform=Platform("arm64"), python="3.13", interpreter="/usr/bin/python3.13", glibc="2.35",
)  # fmt: skip

CHANGES: list[dict[str, object]] = [
    {"platform": Platform("amd64")},
    {"python": "3.12"},
    {"interpreter": "/usr/local/bin/python3.13"},
    {"glibc": "2.28"},
    {"source": ("func-timeout",)},
    {"tools": "setuptools==80\n"},
    {"cuda_home": "print()\n"},
    {"compiler": "sha256:" + "1" * 64},
    {"group": structs.replace(SPEC.group, name="other")},
    {"group": structs.replace(SPEC.group, lock="")},
    {"group": structs.replace(SPEC.group, whole="# the whole lock\n")},
    {"group": structs.replace(SPEC.group, wheels=(Wheel("a", "1", "a.whl", "0" * 64),))},
]


def test_the_key_is_of_all_that_goes_in() -> None:
    assert {name for change in CHANGES for name in change} == set(StackLayer.__struct_fields__)
    keys = [stack.key(structs.replace(SPEC, **change)) for change in [{}, *CHANGES]]
    assert len(set(keys)) == len(keys)
    assert keys[0] == stack.key(SPEC)
    assert all(len(key) == 64 for key in keys)


def test_the_key_is_also_of_how_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    before = stack.key(SPEC)
    monkeypatch.setattr(stack, "_RECIPE", stack._RECIPE[:-1])
    assert stack.key(SPEC) != before
    here = Path(stack.__file__).parent
    assert {path.name for path in here.glob("stack*.py")} <= {*stack._RECIPE, "stack_tar.py"}


LONG = "a-name-that-is-longer-than-a-header-can-say/" * 4 + "and-its-file"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Folders, links, an executable, long and foreign names, and a file of several pieces."""
    top = tmp_path / "stage"
    for name in ("b/z.py", "b.txt", "a", LONG, "lib/größe", "bin/run"):
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(name.encode())
    (top / "bin/run").chmod(0o700)
    (top / "b.txt").chmod(0o600)
    (top / "large").write_bytes(os.urandom(3 * stack_tar.PIECE + 7))
    (top / "empty").touch()
    (top / "lib64").symlink_to("lib")
    (top / "far").symlink_to("../" * 40 + "nowhere")
    return top


def opened(pieces: list[bytes]) -> tarfile.TarFile:
    return tarfile.open(fileobj=io.BytesIO(b"".join(pieces)))


def test_a_tar_tells_nothing_of_this_machine(tree: Path) -> None:
    found = opened(list(stack_tar.pieces(tree, "opt/stack"))).getmembers()
    names = [each.name for each in found]
    assert names[:2] == ["opt", "opt/stack"]
    assert names == sorted(names, key=lambda name: name.split("/"))
    assert {(each.mtime, each.uid, each.gid, each.uname, each.gname) for each in found} == {
        (MTIME, 0, 0, "", "")
    }
    modes = {each.name: each.mode for each in found}
    assert (modes["opt/stack/bin/run"], modes["opt/stack/b.txt"], modes["opt/stack/bin"]) == (
        0o755,
        0o644,
        0o755,
    )


def test_a_tar_holds_what_the_folder_holds(tree: Path, tmp_path: Path) -> None:
    with opened(list(stack_tar.pieces(tree, "opt/stack"))) as tar:
        tar.extractall(tmp_path / "out", filter="tar")
    made = tmp_path / "out/opt/stack"
    there = {path.relative_to(tree) for path in tree.rglob("*")}
    assert {path.relative_to(made) for path in made.rglob("*")} == there
    for name in there:
        old, new = tree / name, made / name
        if old.is_symlink():
            assert old.readlink() == new.readlink()
        elif old.is_file():
            assert old.read_bytes() == new.read_bytes()


def test_equal_trees_equal_bytes_in_bounded_pieces(tree: Path) -> None:
    first = list(stack_tar.pieces(tree, "opt/stack"))
    os.link(tree / "large", tree.with_name("linked elsewhere"))
    (tree / "b.txt").touch()
    second = list(stack_tar.pieces(tree, "opt/stack"))
    assert b"".join(first) == b"".join(second)
    assert len(b"".join(first)) % tarfile.RECORDSIZE == 0
    assert max(map(len, first)) < 3 * stack_tar.PIECE


@pytest.mark.parametrize(
    "size", [0, 511, 512, 513, stack_tar.PIECE - 512, stack_tar.PIECE, stack_tar.PIECE + 1]
)
def test_no_size_breaks_a_tar(size: int, tmp_path: Path) -> None:
    (tmp_path / "stage").mkdir()
    (tmp_path / "stage/file").write_bytes(b"x" * size)
    tar = opened(list(stack_tar.pieces(tmp_path / "stage", "opt")))
    file = tar.extractfile("opt/file")
    assert file and file.read() == b"x" * size


def test_sizes_that_a_header_cannot_say() -> None:
    raw = stack_tar._header("large", tarfile.REGTYPE, 0o644, size=9 << 30)
    assert tarfile.TarFile.open(fileobj=io.BytesIO(raw + bytes(1024)), mode="r|").next().size == 9 << 30  # type: ignore[union-attr]


@pytest.mark.parametrize("length", [*range(80, 130), 980, 990, 1000, 1010])
def test_names_of_every_length(length: int) -> None:
    raw = stack_tar._header("n" * length, tarfile.SYMTYPE, 0o777, link="ü" * length)
    (info,) = opened([raw, bytes(1024)]).getmembers()
    assert (info.name, info.linkname) == ("n" * length, "ü" * length)


def test_a_file_that_shrinks_is_told(tree: Path) -> None:
    pieces = stack_tar.pieces(tree, "opt/stack")
    with pytest.raises(BuildError, match="large became shorter"):
        for _ in pieces:
            os.truncate(tree / "large", 10)


def test_a_pipe_is_refused(tree: Path) -> None:
    os.mkfifo(tree / "pipe")
    with pytest.raises(BuildError, match=r"neither file, folder nor link: .*pipe"):
        list(stack_tar.pieces(tree, "opt/stack"))


def installed(stage: Path, **records: str) -> Path:
    """An environment as uv leaves it, for Python 3.11; package_version="RECORD's text"."""
    site = stage / "lib/python3.11/site-packages"
    for name, record in records.items():
        info = site / f"{name.replace('__', '-')}.dist-info"
        info.mkdir(parents=True)
        (info / "RECORD").write_text(record)
    for name in ("bin", "include/site/python3.11/a"):
        (stage / name).mkdir(parents=True)
    (stage / "include/site/python3.11/a/a.h").touch()
    (stage / "bin/python").symlink_to("/home/me/bin/python3.11")
    for name in ("python3", "python3.11"):
        (stage / "bin" / name).symlink_to("python")
    for name in ("pyvenv.cfg", ".lock", ".gitignore", "CACHEDIR.TAG"):
        (stage / name).write_text("/home/me")
    return site


def test_an_environment_becomes_the_images(tmp_path: Path) -> None:
    header = "../../../include/site/python3.{}/a/a.h,sha256=x,0\n"
    seen = "a-1.dist-info/uv_cache.json,sha256=y,9\n"
    site = installed(tmp_path, a__1=header.format("11") + seen + '"a, b.py",,\n')
    (site / "a-1.dist-info/uv_cache.json").write_text("{}")
    stack_site.settle(tmp_path, SPEC)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "include", "lib"
    ]  # fmt: skip
    assert (tmp_path / "include/site/python3.13/a/a.h").exists()
    record = stack_site.site(tmp_path, "3.13") / "a-1.dist-info/RECORD"
    assert record.read_text() == header.format("13") + '"a, b.py",,\n'
    assert not record.with_name("uv_cache.json").exists()


def test_the_environment_is_a_layer_of_its_own(tmp_path: Path) -> None:
    """Its bytes are of the whole lock and of the image's Python; uv is not asked, nothing is compiled."""
    group = Group(name="environment", lock="", whole="# the whole lock\n")
    pieces = list(stack.tar(structs.replace(SPEC, group=group), pytest.fail, tmp_path, lambda line: None))
    tmp_path /= "stage"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "bin", "lib", "lib64", "pyvenv.cfg", "stack.lock"
    ]  # fmt: skip
    assert {path.name: str(path.readlink()) for path in (tmp_path / "bin").iterdir()} == {
        "python": "/usr/bin/python3.13", "python3": "python", "python3.13": "python",
    }  # fmt: skip
    assert (tmp_path / "pyvenv.cfg").read_text().startswith("home = /usr/bin\n")
    assert (tmp_path / "stack.lock").read_text() == "# the whole lock\n"
    assert sum(map(len, pieces)) < 20_000


def test_of_two_files_with_one_name_the_last_packages_stays(tmp_path: Path) -> None:
    empty = "sha256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU"
    site = installed(
        tmp_path,
        a__1=f"both.py,sha256=x,1\nsame.py,{empty},0\n",
        b_c__1=f"both.py,{empty},0\nsame.py,{empty},0\n",
    )
    (package,) = stack_site.contested(tmp_path)
    assert package == stack_site.Package("b-c", (("both.py", empty),))
    assert not stack_site.as_recorded(tmp_path, package)
    (site / "both.py").write_text("of a")
    assert not stack_site.as_recorded(tmp_path, package)
    (site / "both.py").write_text("")
    assert stack_site.as_recorded(tmp_path, package)


@pytest.fixture(scope="module")
def cuda_home() -> ModuleType:
    where = importlib.util.spec_from_file_location("cuda_home", render.DEFINITIONS / render.CUDA_HOME)
    assert where and where.loader
    module = importlib.util.module_from_spec(where)
    where.loader.exec_module(module)
    return module


HEADER = """
#define cuMemAlloc cuMemAlloc_v2
#define cuMemcpy      __CUDA_API_PTDS(cuMemcpy)
CUresult CUDAAPI cuInit(unsigned int Flags);
CUresult CUDAAPI cuMemAlloc(CUdeviceptr *dptr, size_t bytesize);
typedef enum cudaNothing_enum { CU_NOT = 1 } cuNothing;
"""


@pytest.mark.parametrize(("machine", "number"), [("x86_64", "EM_X86_64"), ("aarch64", "EM_AARCH64")])
def test_cudas_wheels_become_a_cuda_home(
    machine: str, number: str, cuda_home: ModuleType, tmp_path: Path
) -> None:
    for name in ("bin/nvcc", "lib/libcudart.so.13", "lib/libnvrtc-builtins.so.13.0", "lib/libplain.so"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "include").mkdir()
    (tmp_path / "include/cuda.h").write_text(HEADER)
    for _ in range(2):  # a second time changes nothing
        cuda_home.lay_out(tmp_path, cuda_home.MACHINES[machine])
    links = {path.name: str(path.readlink()) for path in tmp_path.rglob("*") if path.is_symlink()}
    assert links == {
        "lib64": "lib", "libcudart.so": "libcudart.so.13",
        "libnvrtc-builtins.so": "libnvrtc-builtins.so.13.0",
    }  # fmt: skip
    with (tmp_path / "lib64/stubs/libcuda.so").open("rb") as file:
        stub = ELFFile(file)
        assert (stub["e_machine"], stub["e_type"]) == (number, "ET_DYN")
        tags = {tag.entry.d_tag: tag for tag in stub.get_section_by_name(".dynamic").iter_tags()}
        assert tags["DT_SONAME"].soname == "libcuda.so.1"
        symbols = list(stub.get_section_by_name(".dynsym").iter_symbols())[1:]
    assert [each.name for each in symbols] == [
        "cuInit",
        "cuMemAlloc",
        "cuMemAlloc_v2",
        "cuMemcpy",
        "cuMemcpy_ptds",
    ]
    assert {(each["st_info"]["type"], each["st_info"]["bind"]) for each in symbols} == {
        ("STT_FUNC", "STB_GLOBAL")
    }
