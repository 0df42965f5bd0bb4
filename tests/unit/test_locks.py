"""The committed locks, held against their inputs without network; and the text form of a lock."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from definitions import lines, lockfile
from definitions.lines import Line
from definitions.lockfile import Lock, Locked
from kit.errors import DriftError, InvalidFileError, UnknownNameError, UnpinnedError
from kit.nouns import Platform
from runner import cli

AMD64, ARM64 = Platform(arch="amd64"), Platform(arch="arm64")
UNPINNED = {("cu12", "arm64")}
COMBINATIONS = [
    pytest.param(line, platform, python, id=f"{line.name}-{platform.arch}-{python}")
    for line in map(lines.load, lines.names())
    for platform in (AMD64, ARM64)
    for python in line.pythons
    if (line.name, platform.arch) not in UNPINNED
]
every = pytest.mark.parametrize(("line", "platform", "python"), COMBINATIONS)


def read(line: Line, platform: Platform, python: str) -> Lock:
    path = line.lock_path(platform, python)
    return lockfile.parse(path.read_text(), str(path))


def test_nothing_lies_about() -> None:
    """Every lock in the tree belongs to a line, a platform and a Python that can be asked for."""
    there = {path for path in lines.STACKS.rglob("*.lock")}
    assert there == {
        line.lock_path(platform, python) for line, platform, python in map(_values, COMBINATIONS)
    }


def _values(parameters: object) -> tuple[Line, Platform, str]:
    return parameters.values  # type: ignore[attr-defined, no-any-return]


@every
def test_the_lock_fits_its_input(line: Line, platform: Platform, python: str) -> None:
    assert line.lock(platform, python).exists()


@every
def test_every_package_has_hashes_and_nothing_is_a_url(line: Line, platform: Platform, python: str) -> None:
    text = line.lock_path(platform, python).read_text()
    body = [row for row in text.splitlines() if not row.startswith("#")]
    packages = [row for row in body if not row.startswith("    ")]
    assert packages and all(re.fullmatch(r"[a-z0-9-]+==[^ ;@]+ \\", row) for row in packages)
    for row, following in zip(body, [*body[1:], ""], strict=True):
        if not row.startswith("    "):
            assert re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}( \\)?", following), row
    assert "://" not in text and not re.search(r"\b[\w-]+\.(org|com|net|io)\b", text)
    assert "index" not in text.replace("indexed", "")


@every
def test_what_was_asked_for_is_in_it(line: Line, platform: Platform, python: str) -> None:
    lock = read(line, platform, python)
    overridden = {canonicalize_name(Requirement(each).name) for each in line.overrides}
    asked = [*line.requirements(), *line.difference(platform).requirements]
    for requirement in map(Requirement, asked):
        found = lock.version(canonicalize_name(requirement.name))
        assert found and (requirement.name in overridden or requirement.specifier.contains(found)), (
            requirement
        )
    for requirement in map(Requirement, [*line.constraints, *line.overrides]):
        found = lock.version(canonicalize_name(requirement.name))
        assert found is None or requirement.specifier.contains(found), requirement


@every
def test_what_was_left_out_is_not_in_it(line: Line, platform: Platform, python: str) -> None:
    lock = read(line, platform, python)
    for name in (*line.extensions, *line.excludes, *line.difference(platform).excludes):
        assert lock.version(name) is None, name


@every
def test_cuda_lines_have_a_cuda_torch(line: Line, platform: Platform, python: str) -> None:
    """A torch that comes with its NVIDIA libraries, or a pinned file: never the CPU build of the index."""
    lock = read(line, platform, python)
    torch = lock.version("torch")
    assert (torch is None) == (line.cuda is None)
    if line.cuda and not line.needs_torch_index(platform):
        major = line.cuda.partition(".")[0]
        for name in ("nccl", "cudnn", "cusparselt", "nvshmem"):
            if name != "nvshmem" or major != "12":
                assert lock.version(f"nvidia-{name}-cu{major}"), name
        assert not any(each.name.endswith(f"-cu{25 - int(major)}") for each in lock.packages
                       if each.name.startswith(("nvidia-nccl", "nvidia-cudnn", "nvidia-cublas")))  # fmt: skip


NAMED = {
    "cpu": {"ray": "2.57.0"},
    "cu12": {
        "skyrl-train": "0.3.1", "skyrl-gym": "0.2.0", "torch": "2.8.0", "vllm": "0.11.0", "ray": "2.51.1",
        "nvidia-nccl-cu12": "2.27.5", "transformers": "4.57.3",  # 5 resolves with vllm 0.11, and is broken
    },
    "cu13": {"skyrl": "0.4.0", "torch": "2.13.0", "vllm": "0.30.0", "ray": "2.57.0"},
    "serve": {"vllm": "0.33.0", "torch": "2.14.0", "ray": "2.60.0"},
}  # fmt: skip
PRESENT = {"cpu": {"wandb", "numpy"}, "cu12": {"wandb"}, "cu13": {"wandb", "harbor", "mini-swe-agent"}}


@every
def test_the_named_versions(line: Line, platform: Platform, python: str) -> None:
    lock = read(line, platform, python)
    named = NAMED.get(line.name, {})  # a line of somebody else needs no entry here
    assert {name: lock.version(name) for name in named} == named
    assert all(lock.version(name) for name in PRESENT.get(line.name, ()))


def test_the_cpu_line_is_small() -> None:
    assert len(read(lines.load("cpu"), AMD64, "3.12").packages) <= 40


names = st.lists(st.text("abz09", min_size=1, max_size=4), min_size=1, max_size=3).map("-".join)
versions = st.lists(st.integers(0, 99).map(str), min_size=1, max_size=3).map(".".join)
hashes = st.lists(st.binary(min_size=32, max_size=32).map(bytes.hex), min_size=1, max_size=3, unique=True)
packages = st.builds(Locked, names, versions, hashes.map(lambda found: tuple(sorted(found))))
locks = st.lists(packages, min_size=1, max_size=5, unique_by=lambda each: each.name).map(
    lambda found: Lock("sha256:" + "0" * 64, tuple(sorted(found)))
)


@given(locks, st.randoms())
def test_a_lock_is_read_as_it_was_written_in_whatever_order(lock: Lock, random: object) -> None:
    shuffled = list(lock.packages)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    text = lockfile.text(Lock(lock.input, tuple(shuffled)), "title", "make lock")
    assert text == lockfile.text(lock, "title", "make lock")
    assert lockfile.parse(text, "x.lock") == lock


@given(locks, st.data())
def test_a_lock_that_lost_its_end_is_no_lock(lock: Lock, data: st.DataObject) -> None:
    text = lockfile.text(lock, "title", "make lock")
    cut = data.draw(st.integers(0, len(text) - 2))
    with pytest.raises(InvalidFileError):
        lockfile.parse(text[:cut], "x.lock")


@given(locks, st.data())
def test_a_changed_pin_is_a_small_difference(lock: Lock, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(lock.packages) - 1))
    changed = list(lock.packages)
    changed[at] = Locked(changed[at].name, changed[at].version + ".1", ("f" * 64,))
    before = lockfile.text(lock, "t", "c").splitlines()
    after = lockfile.text(Lock(lock.input, tuple(changed)), "t", "c").splitlines()
    assert len(set(after) - set(before)) <= 3  # the package, its hash, and the digest of the whole
    assert len(set(before) - set(after)) <= 2 + len(lock.packages[at].sha256)


TWO = (Locked("aa", "1", ("0" * 64,)), Locked("bb", "2", ("1" * 64,)))
GOOD = lockfile.text(Lock("sha256:" + "0" * 64, TWO), "title", "make lock")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("aa==1 \\", "aa==1"),
        ("aa==1 \\", "aa>=1 \\"),
        ("aa==1 \\", "aa @ https://example.invalid/aa-1.whl \\"),
        ("aa==1 \\", "Aa==1 \\"),
        ("aa==1 \\", "zz==1 \\"),
        ("aa==1 \\", "bb==2 \\"),
        ("aa==1 \\", "--index-url https://example.invalid/simple\naa==1 \\"),
        ("aa==1 \\", "<<<<<<< ours\naa==1 \\"),
        ("sha256:" + "0" * 64 + "\nbb", "sha256:" + "0" * 63 + "\nbb"),
        ("sha256:" + "0" * 64 + "\nbb", "md5:" + "0" * 64 + "\nbb"),
        ("# input ", "# "),
        ("# content ", "# "),
        ("hash=sha256:" + "0", "hash=sha256:" + "1"),
    ],
)
def test_what_is_not_a_lock_is_refused(old: str, new: str) -> None:
    assert lockfile.parse(GOOD, "x.lock").version("bb") == "2"
    assert old in GOOD
    with pytest.raises(InvalidFileError, match=r"x\.lock") as told:
        lockfile.parse(GOOD.replace(old, new, 1), "x.lock")
    assert told.value.hint == "make lock"


def test_locks_name_the_command_that_writes_them() -> None:
    head = Path(lines.load("cu13").lock(ARM64, "3.12")).read_text().splitlines()[:4]
    assert head[0] == "# line cu13, Python 3.12, linux/arm64, glibc 2.35 or newer"
    assert "`make lock LINE=cu13`" in head[1] and re.fullmatch(r"# input sha256:[0-9a-f]{64}", head[2])
    assert re.fullmatch(r"# content sha256:[0-9a-f]{64}", head[3])


def told(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = cli.main(["lock", *argv])
    return code, *capsys.readouterr()


def test_the_command_finds_nothing_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    """And says what it leaves out, with the reason; nothing on stdout, for nothing was written."""
    code, out, err = told(capsys, "--check")
    assert (code, out) == (0, "")
    assert "left out: line cu12 on linux/arm64" in err and "every lock fits its input" in err


def test_the_command_refuses_what_was_asked_for_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = told(capsys, "--arch", "gh200", "--line", "cu12")
    assert code == UnpinnedError.code and err.startswith("error: line cu12 on linux/arm64 has no hash")
    code, _, err = told(capsys, "--line", "cu31")
    assert code == UnknownNameError.code and "did you mean 'cu13'?" in err


def test_the_command_fails_where_an_input_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(lines.STACKS, tmp_path / "stacks")
    monkeypatch.setattr(lines, "STACKS", tmp_path / "stacks")
    with (tmp_path / "stacks/cpu/requirements.in").open("a") as file:
        file.write("six\n")
    code, _, err = told(capsys, "--check")
    assert code == DriftError.code and err.count("was made from another input") == 4
    assert "error: 4 locks do not fit their input\nhint: make lock" in err
