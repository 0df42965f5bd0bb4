"""Lines as data: what they offer, what they refuse, and why."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from definitions import lines, lockfile
from kit.errors import DriftError, InvalidFileError, UnknownNameError, UnpinnedError, UnsupportedError
from kit.nouns import Platform

AMD64, ARM64 = Platform(arch="amd64"), Platform(arch="arm64")


@pytest.fixture
def stacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the lines that a test may change, in a folder with an awkward name."""
    folder = tmp_path / "a 'stack' folder"
    shutil.copytree(lines.STACKS, folder)
    monkeypatch.setattr(lines, "STACKS", folder)
    return folder


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_the_lines_of_the_house() -> None:
    assert lines.names() == ("cpu", "cu12", "cu13", "serve")
    for name in lines.names():
        line = lines.load(name)
        assert line.name == name and line.summary and line.pythons and line.requirements()


@pytest.mark.parametrize(
    ("name", "cuda", "driver"),
    [("cpu", None, None), ("cu12", "12.8", "525"), ("cu13", "13.0", "580"), ("serve", "13.0", "580")],
)
def test_driver_floors(name: str, cuda: str | None, driver: str | None) -> None:
    line = lines.load(name)
    assert (line.cuda, line.driver_floor) == (cuda, driver)


def test_wheel_platforms() -> None:
    line = lines.load("cu13")
    assert line.wheel_platform(AMD64) == "x86_64-manylinux_2_35"
    assert line.wheel_platform(ARM64) == "aarch64-manylinux_2_35"


@given(st.text(max_size=12))
def test_an_unknown_line_names_those_there_are(name: str) -> None:
    if name in lines.names():
        return
    with pytest.raises(UnknownNameError) as told:
        lines.load(name)
    assert "expected one of cpu, cu12, cu13, serve" in told.value.message


@given(st.sampled_from(lines.names()), st.integers(0, 8), st.sampled_from("xz_"))
def test_a_slip_of_the_finger_is_understood(name: str, at: int, extra: str) -> None:
    with pytest.raises(UnknownNameError) as told:
        lines.load(name[:at] + extra + name[at:])
    assert told.value.hint and told.value.hint.startswith(
        "did you mean 'c" if name[0] == "c" else "did you mean 's"
    )


def test_an_unknown_key_is_an_error(stacks: Path) -> None:
    edit(stacks / "cpu/line.toml", "glibc =", "glibcc =")
    with pytest.raises(UnknownNameError) as told:
        lines.load("cpu")
    assert "unknown key 'glibcc'" in told.value.message and told.value.hint == "did you mean 'glibc'?"


def test_an_unknown_platform_is_an_error(stacks: Path) -> None:
    edit(stacks / "cu12/line.toml", "[platforms.arm64]", "[platforms.arm46]")
    with pytest.raises(UnknownNameError) as told:
        lines.load("cu12")
    assert told.value.hint == "did you mean 'arm64'?"


@pytest.mark.parametrize("wrong", ["3.12.1", "312", ">=3.12"])
def test_pythons_are_minor_versions(stacks: Path, wrong: str) -> None:
    edit(stacks / "cu12/line.toml", 'pythons = ["3.12"]', f'pythons = ["{wrong}"]')
    with pytest.raises(InvalidFileError, match="pythons must be like"):
        lines.load("cu12")


@pytest.mark.parametrize("platform", [AMD64, ARM64], ids=str)
def test_cu12_is_refused_on_another_python(platform: Platform) -> None:
    with pytest.raises(UnsupportedError) as told:
        lines.load("cu12").lock(platform, "3.13")
    assert "line cu12 cannot be had for Python 3.13" in told.value.message
    assert "3.12" in (told.value.hint or "")


def test_only_cu12_on_arm64_needs_the_additional_index() -> None:
    needing = {(name, platform.arch) for name in lines.names() for platform in (AMD64, ARM64)
               if lines.load(name).needs_torch_index(platform)}  # fmt: skip
    assert needing == {("cu12", "arm64")}


def test_a_missing_hash_is_refused_with_the_trap_named() -> None:
    """Whichever file it is: never filled from the package index, whose torch for aarch64 is a CPU build."""
    line = lines.load("cu12")
    assert any(not pin.sha256 for pin in line.difference(ARM64).pins), (
        "all pinned: write its lock, drop this test"
    )
    with pytest.raises(UnpinnedError) as told:
        line.lock(ARM64, "3.12")
    assert "aarch64.whl" in told.value.message and "CPU build" in told.value.message
    assert "make lock LINE=cu12" in (told.value.hint or "")
    assert not line.lock_path(ARM64, "3.12").exists()


@pytest.mark.parametrize("sources", ['["a"]', '["a", "a"]', "[]"])
def test_a_hash_with_fewer_than_two_sources_is_refused(stacks: Path, sources: str) -> None:
    with (stacks / "cu12/line.toml").open("a") as file:
        file.write(f'sha256 = "{"0" * 64}"\nsources = {sources}\n')
    with pytest.raises(InvalidFileError, match="pin triton needs a sha256 of 64 hex digits with two sources"):
        lines.load("cu12")


def test_once_every_pin_is_there_only_the_lock_is_missing(stacks: Path) -> None:
    with (stacks / "cu12/line.toml").open("a") as file:
        file.write(f'sha256 = "{"0" * 64}"\nsources = ["a", "b"]\n')
    with pytest.raises(UnpinnedError) as told:
        lines.load("cu12").lock(ARM64, "3.12")
    assert "cp312-arm64.lock is missing" in told.value.message and told.value.hint == "make lock LINE=cu12"


MUTATIONS = [
    ("requirements.in", "torch==2.13.0", "torch==2.12.0"),
    ("requirements.in", "wandb", "wandb<1"),
    ("requirements.in", "fsdp,harbor", "fsdp"),
    ("line.toml", 'exclude_newer = "2026-10-10"', 'exclude_newer = "2026-10-11"'),
    ("line.toml", "nvidia-cuda-nvcc==13.0.88", "nvidia-cuda-nvcc==13.0.87"),
    ("line.toml", 'glibc = "2.35"', 'glibc = "2.34"'),
    ("line.toml", 'source = ["antlr4-python3-runtime", ', "source = ["),
    ("line.toml", 'extensions = ["causal-conv1d", ', "extensions = ["),
    ("line.toml", 'excludes = ["flashinfer-cubin", ', "excludes = ["),
    ("line.toml", "source =", 'overrides = ["numpy<2"]\nsource ='),
    ("line.toml", "constraints = [", 'exclude_newer_package = { numpy = "2026-01-01" }\nconstraints = ['),
]


@pytest.mark.parametrize(("file", "old", "new"), MUTATIONS)
def test_a_lock_does_not_stand_for_another_input(stacks: Path, file: str, old: str, new: str) -> None:
    assert lines.load("cu13").lock(AMD64, "3.12").exists()
    edit(stacks / "cu13" / file, old, new)
    with pytest.raises(DriftError) as told:
        lines.load("cu13").lock(AMD64, "3.12")
    assert "cp312-amd64.lock was made from another input" in told.value.message
    assert told.value.hint == "make lock LINE=cu13"


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("requirements.in", "wandb", "# words\n\nwandb  # more words"),
        ("line.toml", "SkyRL with", "SkyRL and"),
    ],
)
def test_words_for_people_do_not_make_a_lock_old(stacks: Path, file: str, old: str, new: str) -> None:
    edit(stacks / "cu13" / file, old, new)
    assert lines.load("cu13").lock(AMD64, "3.12").exists()


def test_each_platform_and_python_has_an_input_of_its_own() -> None:
    line = lines.load("cpu")
    inputs = {line.input(platform, python) for platform in (AMD64, ARM64) for python in line.pythons}
    assert len(inputs) == 4


def test_what_differs_on_one_platform_leaves_the_other_alone(stacks: Path) -> None:
    before = lines.load("cu12")
    edit(stacks / "cu12/line.toml", "nvidia-nvtx-cu12==12.9.79", "nvidia-nvtx-cu12==12.9.80")
    after = lines.load("cu12")
    assert after.input(AMD64, "3.12") == before.input(AMD64, "3.12")
    assert after.input(ARM64, "3.12") != before.input(ARM64, "3.12")


def test_a_damaged_lock_is_not_given_out(stacks: Path) -> None:
    path = stacks / "cpu/cp312-amd64.lock"
    path.write_text(path.read_text().replace("numpy==", "numpy>=", 1))
    with pytest.raises(InvalidFileError, match=r"not a lock: .*cp312-amd64\.lock, line \d+"):
        lines.load("cpu").lock(AMD64, "3.12")


def test_locks_are_read_where_they_are_said_to_be() -> None:
    path = lines.load("cpu").lock(ARM64, "3.13")
    assert path.name == "cp313-arm64.lock" and path.parent.name == "cpu"
    assert lockfile.parse(path.read_text(), str(path)).version("ray") == "2.57.0"
