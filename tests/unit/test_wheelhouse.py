"""The wheelhouse: what may be put in, what images take from it, what is refused."""

from __future__ import annotations

import json
import threading
import time
import zipfile
from pathlib import Path

import pytest
from msgspec.structs import replace

from containers import native_build
from definitions import archs, bases, extensions, lines
from image_cache import wheel_file
from image_cache.wheel_file import Target
from image_cache.wheelhouse import Kept, Wheelhouse
from kit.errors import (
    HashMismatchError,
    HostError,
    InvalidFileError,
    UnsupportedError,
    UsageError,
    VerifyError,
)
from kit.nouns import Platform
from runner import cli, wheel_making, wheels
from runner.planning import Wanted
from runner.wheels import Order
from tests.unit.parts_wheels import fat, host_tag, library, sha256, taken, wheel

AMD64 = Platform(arch="amd64")
TARGET = Target(platform=AMD64, python="3.13", glibc="2.35")
PURPOSE = {"extension": "flash-attn", "version": "2.8.3", "capabilities": "9.0"}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SLIPWORKS_CACHE", str(tmp_path / "a cache"))
    return tmp_path / "a cache"


@pytest.fixture
def order() -> Order:
    """flash-attn for an H100, on the base with Python 3.13."""
    return Order(
        extension=extensions.load("flash-attn"), arch=archs.load("h100"), line=lines.load("cu13"),
        base=bases.load("bootstrap", "debian"), platform=AMD64, torch="2.13.0",
    )  # fmt: skip


# -- a wheel's file --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tag",
    [
        "cp313-cp313-linux_x86_64",
        "cp313-cp313-manylinux_2_24_x86_64.manylinux_2_28_x86_64",
        "cp313-cp313-manylinux2014_x86_64",
        "cp39-abi3-manylinux_2_35_x86_64",
        "py3-none-linux_x86_64",
    ],
)
def test_tags_that_fit(tmp_path: Path, tag: str) -> None:
    assert wheel_file.check(wheel(tmp_path, tag=tag), "flash-attn", "2.8.3", TARGET) == "2.8.3"


@pytest.mark.parametrize(
    "tag",
    [
        "cp312-cp312-linux_x86_64",
        "cp313-cp313t-linux_x86_64",
        "cp313-cp313-linux_aarch64",
        "cp313-cp313-manylinux_2_36_x86_64",
        "cp313-cp313-win_amd64",
    ],
)
def test_tags_that_do_not_fit(tmp_path: Path, tag: str) -> None:
    with pytest.raises(UnsupportedError, match=rf"{tag}: expected Python 3\.13 on linux/amd64"):
        wheel_file.check(wheel(tmp_path, tag=tag), "flash-attn", "2.8.3", TARGET)


def test_a_published_wheel_has_a_local_version(tmp_path: Path) -> None:
    path = wheel(tmp_path, version="2.8.3+cu12torch2.8cxx11abiTRUE")
    assert wheel_file.check(path, "flash-attn", "2.8.3", TARGET) == "2.8.3+cu12torch2.8cxx11abitrue"


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"name": "flash_attn_3"}, "flash-attn-3 2.8.3: expected flash-attn 2.8.3"),
        ({"version": "2.8.2"}, "flash-attn 2.8.2: expected flash-attn 2.8.3"),
        ({"says": "Name: other\nVersion: 2.8.3\n"}, "in its METADATA is other 2.8.3"),
        ({"says": "Name: flash_attn\nVersion: 2.8.4\n"}, "in its METADATA is flash-attn 2.8.4"),
        ({"says": "Name: flash_attn\n"}, "its METADATA has no version"),
    ],
)
def test_another_package_is_not_taken(tmp_path: Path, made: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidFileError, match=message):
        wheel_file.check(wheel(tmp_path, **made), "flash-attn", "2.8.3", TARGET)  # type: ignore[arg-type]


def test_what_is_no_wheel_is_not_taken(tmp_path: Path) -> None:
    with pytest.raises(InvalidFileError, match="not the name of a wheel"):
        wheel_file.check(tmp_path / "x.whl", "flash-attn", "2.8.3", TARGET)
    path = wheel(tmp_path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InvalidFileError, match="is no wheel"):
        wheel_file.check(path, "flash-attn", "2.8.3", TARGET)


def test_gpu_code_is_read_from_the_libraries(tmp_path: Path) -> None:
    made = wheel(tmp_path, library=library(fat(90, 120)))
    assert wheel_making.inspected(made, AMD64, ("9.0",)) == (("sm_90", "sm_120"), None)


@pytest.mark.parametrize(
    ("code", "machine", "message"),
    [
        (fat(80), "x86_64", "no machine code for compute capability 9.0: it has sm_80"),
        (fat(90, kind=1), "x86_64", "no machine code for compute capability 9.0: it has compute_90"),
        (None, "x86_64", "it has none at all"),
        (fat(90), "aarch64", "is for aarch64: expected x86_64"),
    ],
)
def test_code_for_another_gpu_is_not_taken(
    tmp_path: Path, code: bytes | None, machine: str, message: str
) -> None:
    made = wheel(tmp_path, library=library(code, machine))
    with pytest.raises(VerifyError, match=message):
        wheel_making.inspected(made, AMD64, ("9.0",))


# -- the house -------------------------------------------------------------------------------------------


def put(house: Wheelhouse, path: Path, **purpose: str) -> Kept:
    return house.put(path, name="flash-attn", version="2.8.3", purpose=PURPOSE | purpose, origin="compiled")


def test_what_was_put_is_found(tmp_path: Path) -> None:
    house = Wheelhouse(tmp_path / "wheels")
    assert house.list() == ()
    kept = put(house, wheel(tmp_path))
    assert house.find(kept.key) == kept
    assert house.list() == (kept,)
    assert house.checked(kept.wheel).read_bytes() == wheel(tmp_path).read_bytes()
    assert house.path(kept.wheel) == house.root / kept.wheel.sha256 / kept.wheel.file
    assert not list(house.root.rglob("*.tmp"))


def test_a_damaged_wheel_is_told_and_no_traceback(tmp_path: Path) -> None:
    """Damage of each part of a zip: packed bytes, the flag of encryption, an unknown packing."""
    path = wheel(tmp_path, library=library(fat(90)))
    with zipfile.ZipFile(path) as whole:
        bodies = {each: whole.read(each) for each in whole.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, body in bodies.items():
            packed.writestr(name, body)
        about = next(each for each in packed.infolist() if each.filename.endswith("METADATA"))
        code = next(each for each in packed.infolist() if each.filename.endswith(".so"))
    raw = path.read_bytes()
    for entry in (about, code):
        local = entry.header_offset
        central = raw.index(entry.filename.encode(), raw.index(b"PK\x01\x02")) - 46
        body = local + 30 + len(entry.filename)
        for changes in (
            [(body, b"\xff\xff\xff")],
            [(local + 6, b"\x01"), (central + 8, b"\x01")],
            [(local + 8, b"\x63"), (central + 10, b"\x63")],
        ):
            broken = bytearray(raw)
            for at, new in changes:
                broken[at : at + len(new)] = new
            path.write_bytes(broken)
            with pytest.raises(InvalidFileError, match=r"is no (whole )?wheel"):
                wheel_file.check(path, "flash-attn", "2.8.3", TARGET)
                list(wheel_file.libraries(path))


def test_wheels_of_one_name_for_two_gpus(tmp_path: Path) -> None:
    house = Wheelhouse(tmp_path / "wheels")
    a = put(house, wheel(tmp_path / "a", library=library(fat(80))), capabilities="8.0")
    b = put(house, wheel(tmp_path / "b", library=library(fat(90))), capabilities="9.0")
    assert a.wheel.file == b.wheel.file
    assert (house.find(a.key), house.find(b.key)) == (a, b)
    assert house.checked(a.wheel) != house.checked(b.wheel)


def test_a_wheel_that_was_cut_short_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    house = Wheelhouse(tmp_path / "wheels")
    kept = put(house, wheel(tmp_path))
    house.path(kept.wheel).write_bytes(b"short")
    assert house.find(kept.key) is None
    assert "counts as missing: it has 5 bytes" in capsys.readouterr().err
    with pytest.raises(HashMismatchError, match="is damaged"):
        house.checked(kept.wheel)
    assert house.find(put(house, wheel(tmp_path)).key) == house.list()[0], "a new put does not mend it"


def test_of_two_that_compile_one_does(tmp_path: Path) -> None:
    house, made = Wheelhouse(tmp_path / "wheels"), []
    path = wheel(tmp_path)
    key = put(Wheelhouse(tmp_path / "other"), path).key
    gate = threading.Barrier(4)

    def build() -> Kept:
        made.append(1)
        time.sleep(0.2)  # as a compiler would: the others must really find it under way
        return put(house, path)

    def one() -> None:
        gate.wait()
        found.append(house.ensure(key, build))

    found: list[Kept] = []
    threads = [threading.Thread(target=one) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(made) == 1
    assert len(found) == 4
    assert len({each.wheel for each in found}) == 1


# -- what images take ------------------------------------------------------------------------------------


def test_each_part_of_the_purpose_is_in_the_key(order: Order) -> None:
    others = [
        replace(order, extension=replace(order.extension, version="2.8.4")),
        replace(order, extension=extensions.load("causal-conv1d")),
        replace(order, arch=archs.load("a100")),
        replace(order, line=replace(order.line, cuda="13.2")),
        replace(order, base=replace(order.base, python="3.12")),
        replace(order, base=replace(order.base, suite="forky")),
        replace(order, platform=Platform(arch="arm64")),
        replace(order, torch="2.14.0"),
        replace(order, extension=replace(order.extension, sha256="0" * 64)),
        replace(order, extension=replace(order.extension, environment={"A": "1"})),
    ]
    assert len({each.key for each in (order, *others)}) == 1 + len(others)
    assert replace(order, arch=archs.load("h200")).key == order.key, "one GPU code, one wheel"


def test_what_compiles_is_in_the_key(order: Order, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = order.key
    (tmp_path / "native_build.py").write_text("another")
    monkeypatch.setattr(native_build, "__file__", str(tmp_path / "native_build.py"))
    assert order.key != before


def test_a_dry_run_tells_no_secret_and_looks_at_the_hash(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["image", "wheel", "flash-attn", "--arch", "h100", "--dry-run", "--from"]
    url = "https://me:word@host/flash_attn.whl?X-Signature=signed"
    assert cli.main([*words, url, "--sha256", "0" * 64]) == 0
    told = capsys.readouterr()
    assert "would take https://host/flash_attn.whl as flash-attn" in told.out
    assert not any(secret in told.out + told.err for secret in ("word", "signed"))
    assert cli.main([*words, url, "--sha256", "abc"]) == InvalidFileError.code
    assert "64 hex digits" in capsys.readouterr().err
    gone = tmp_path / "it's no.whl"
    for dry in (words, [each for each in words if each != "--dry-run"]):
        assert cli.main([*dry, str(gone), "--sha256", "0" * 64]) == InvalidFileError.code
        said = capsys.readouterr().err
        assert f"there is no file {gone}" in said and "ls -l" in said


def test_found_and_missing(order: Order, tmp_path: Path) -> None:
    house = Wheelhouse(tmp_path / "wheels")
    given = (order.line, order.arch, order.platform, order.base, house)
    assert wheels.found(*given) == ((), ("causal-conv1d", "flash-attn"))
    kept = house.put(
        wheel(tmp_path), name="flash-attn", version="2.8.3", purpose=order.purpose, origin="compiled"
    )
    assert wheels.found(*given) == ((kept.wheel,), ("causal-conv1d",))
    for_a100 = (order.line, archs.load("a100"), order.platform, order.base, house)
    assert wheels.found(*for_a100) == ((), ("causal-conv1d", "flash-attn"))


def test_found_leaves_complaints_to_the_recipe(order: Order, tmp_path: Path) -> None:
    odd = replace(order.base, python="3.99")
    house = Wheelhouse(tmp_path / "wheels")
    assert wheels.found(order.line, order.arch, order.platform, odd, house) == ((), order.line.extensions)
    named = replace(order.line, extensions=("never-heard-of",))
    assert wheels.found(named, order.arch, order.platform, order.base, house) == ((), ("never-heard-of",))


# -- what is refused -------------------------------------------------------------------------------------


def test_a_foreign_platform_is_refused_with_both_ways_out(order: Order) -> None:
    there = "arm64" if Platform.host().arch == "amd64" else "amd64"
    foreign = replace(order, arch=archs.load("gh200"), platform=Platform(arch=there))
    with pytest.raises(UnsupportedError, match="nothing is emulated") as caught:
        wheel_making.refuse(foreign)
    assert caught.value.hint is not None
    assert "runner image wheel flash-attn --arch gh200 --base bootstrap  or here:" in caught.value.hint
    assert caught.value.hint.endswith("--from URL --sha256 HEX")


def test_cuda_12_has_no_compiler(order: Order) -> None:
    old = replace(order, line=lines.load("cu12"), platform=Platform.host())
    with pytest.raises(UnsupportedError, match=r"no nvcc for CUDA 12\.8") as caught:
        wheel_making.refuse(old)
    assert caught.value.hint is not None
    assert "--line cu12" in caught.value.hint
    assert caught.value.hint.endswith("--from URL --sha256 HEX")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("cpu", "has no GPU"),
        ("h100 serve", "line serve names no extension flash-attn"),
        ("h100 cu13 linux/arm64", "arch h100 is not made for linux/arm64"),
    ],
)
def test_what_would_go_into_no_image_is_refused(words: str, message: str) -> None:
    asked = dict(zip(("arch", "line", "platform"), words.split(), strict=False))
    with pytest.raises(UnsupportedError, match=message):
        wheels.ordered("flash-attn", Wanted(**asked))  # type: ignore[arg-type]


def test_too_little_memory_is_told_before_anything_is_made(
    order: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kit.share.memory", lambda: 7 * 2**30)
    with pytest.raises(HostError, match=r"needs 6 GB for one compile job.*may use 7\.0 GB") as caught:
        wheel_making.jobs(order, None)
    assert caught.value.hint is not None
    assert "--jobs 1" in caught.value.hint
    assert wheel_making.jobs(order, 3) == 3


def test_a_job_that_ran_out_of_memory_is_told_as_that(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("ninja: build stopped\nptxas info: 0 errors\nKilled\nTraceback\n" + "x\n" * 30)
    told = wheel_making.failure("flash-attn", 1, log)
    assert isinstance(told, HostError)
    log.write_text("a.cu(3): error: identifier undefined\n" + "x\n" * 30)
    assert "a.cu(3): error: identifier undefined" in wheel_making.failure("flash-attn", 1, log).message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "NAME and --arch missing"),
        ("flash-attn", "--arch missing"),
        ("flash-attn --arch h100 --from x.whl", "taken only by its hash"),
        ("flash-attn --arch h100 --sha256 " + "0" * 64, "there is no --from"),
        ("flash-attn --arch h100 --jobs 0", "expected a number from 1 on"),
    ],
)
def test_a_wrong_command_line(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["image", "wheel", *words.split()]) == UsageError.code
    assert message in capsys.readouterr().err


# -- published wheels ------------------------------------------------------------------------------------


def test_a_file_is_taken_and_listed(tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = wheel(tmp_path / "a folder, b", tag=host_tag(), version="2.8.3+cu13", library=library(fat(90)))
    assert taken(path, sha256(path)) == 0
    kept = cache / "wheels" / sha256(path) / path.name
    assert capsys.readouterr().out.strip() == str(kept)
    assert kept.read_bytes() == path.read_bytes()
    assert cli.main(["image", "wheel", "--list", "--json"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)
    assert listed["wheel"] == {
        "name": "flash-attn", "version": "2.8.3+cu13", "file": path.name, "sha256": sha256(path)
    }  # fmt: skip
    assert listed["codes"] == ["sm_90"]
    assert listed["origin"] == str(path)
    assert not list((cache / "scratch").iterdir())


def test_a_file_of_another_hash_is_not(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = wheel(tmp_path, tag=host_tag(), library=library(fat(90)))
    assert taken(path, "0" * 64) == HashMismatchError.code
    assert taken(path, "abc") == InvalidFileError.code
    assert taken(tmp_path / "nothing.whl", "0" * 64) == InvalidFileError.code
    assert capsys.readouterr().err.count("error: ") == 3
    assert not list((cache / "wheels").glob("*"))
