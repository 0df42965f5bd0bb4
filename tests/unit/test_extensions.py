"""Extensions as data, and the program that compiles them inside an image."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from containers import native_build
from definitions import extensions, lines, lockfile
from definitions.extensions import Extension
from kit.errors import HashMismatchError, InvalidFileError, NotFoundError, UnknownNameError
from kit.nouns import Platform

GB = 2**30
NINE = [word for each in (75, 80, 87, 90, 100, 120, 103, 110, 121)
        for word in ("-gencode", f"arch=compute_{each},code=sm_{each}")]  # fmt: skip


def test_each_extension_that_a_line_names_can_be_compiled_or_taken() -> None:
    for line in map(lines.load, lines.names()):
        for name in line.extensions:
            assert extensions.load(name).name == name


def test_what_a_build_needs_is_in_the_locks() -> None:
    line = lines.load("cu13")
    for python in line.pythons:
        for arch in ("amd64", "arm64"):
            path = line.lock_path(Platform(arch=arch), python)
            lock = lockfile.parse(path.read_text(), str(path))
            for name in line.extensions:
                assert extensions.load(name).missing(lock) == ()
    without = lockfile.Lock(lock.input, tuple(each for each in lock.packages if each.name != "ninja"))
    assert extensions.load("flash-attn").missing(without) == ("ninja",)


def test_a_name_may_be_spelt_as_its_module() -> None:
    assert extensions.load("flash_attn") == extensions.load("flash-attn")


def test_an_unknown_name_says_what_was_meant() -> None:
    with pytest.raises(UnknownNameError) as caught:
        extensions.load("flash-atn")
    assert caught.value.hint == "did you mean 'flash-attn'?"


def test_a_wrong_table_is_named(tmp_path: Path) -> None:
    file = tmp_path / "extensions.toml"
    file.write_text('[Tiny]\nversion = "1"\nsha256 = "ab"\nmodule = "tiny"\nmemory = 1\n')
    with pytest.raises(InvalidFileError, match=r"table \[Tiny\]"):
        extensions.load("tiny", file)


@pytest.mark.parametrize(
    ("capabilities", "numbers", "listed"), [(["9.0"], "90", "9.0"), (["8.0", "9.0"], "80;90", "8.0;9.0")]
)
def test_variables(capabilities: list[str], numbers: str, listed: str) -> None:
    found = extensions.load("flash-attn").variables(capabilities, 3)
    assert found["FLASH_ATTN_CUDA_ARCHS"] == numbers
    assert found["TORCH_CUDA_ARCH_LIST"] == listed
    assert (found["MAX_JOBS"], found["FLASH_ATTENTION_FORCE_BUILD"]) == ("3", "TRUE")


@pytest.mark.parametrize(("cpus", "memory", "jobs"), [(2, 64, 2), (72, 100, 16), (8, 11, 1), (8, 5, 0)])
def test_jobs_have_a_cpu_and_their_memory(cpus: int, memory: int, jobs: int) -> None:
    assert extensions.jobs(extensions.load("flash-attn"), cpus, memory * GB) == jobs


def answered(sha256: str, kind: str = "sdist") -> str:
    file = f'{{ url = "https://host/flash_attn-2.8.3.tar.gz", hashes = {{ sha256 = "{sha256}" }} }}'
    return f'[[packages]]\nname = "flash-attn"\nversion = "2.8.3"\n{kind} = {file}\n'


def test_the_index_must_have_the_sources_that_are_meant() -> None:
    wanted = extensions.load("flash-attn")
    assert extensions.address(wanted, answered(wanted.sha256)) == "https://host/flash_attn-2.8.3.tar.gz"
    with pytest.raises(HashMismatchError, match="expected " + wanted.sha256):
        extensions.address(wanted, answered("0" * 64))
    with pytest.raises(NotFoundError):
        extensions.address(wanted, answered(wanted.sha256, kind="archive"))


# -- the compiler's arguments ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "capabilities", "found"),
    [
        (["-O3", *NINE, "-c"], "9.0", ["-O3", "-c", "-gencode=arch=compute_90,code=sm_90"]),
        (["-gencode=arch=compute_90a,code=sm_90a"], "9.0", ["-gencode=arch=compute_90a,code=sm_90a"]),
        (["--generate-code", "arch=compute_75,code=sm_75"], "9.0", ["-gencode=arch=compute_90,code=sm_90"]),
        (["-arch=sm_80", "x.cu"], "9.0", ["x.cu", "-gencode=arch=compute_90,code=sm_90"]),
        (["-arch", "sm_90", "x.cu"], "9.0", ["x.cu", "-arch=sm_90"]),
        (NINE, "8.0,9.0",
         ["-gencode=arch=compute_80,code=sm_80", "-gencode=arch=compute_90,code=sm_90"]),
        (["-V"], "9.0", ["-V"]),
        (["-archive-options", "x"], "9.0", ["-archive-options", "x"]),
    ],
)  # fmt: skip
def test_the_compiler_is_asked_for_one_gpu(given: list[str], capabilities: str, found: list[str]) -> None:
    assert native_build.chosen(given, capabilities.split(",")) == found


def program(*words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-I", native_build.__file__, *map(str, words)]
    clean = {"PATH": os.defpath, **environment}
    return subprocess.run(argv, env=clean, capture_output=True, text=True, check=False)


def test_the_compiler_is_really_started_so(tmp_path: Path) -> None:
    nvcc = tmp_path / "cuda home/bin/nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    nvcc.chmod(0o755)
    environment = {"CUDA_HOME": str(tmp_path / "cuda home"), "NATIVE_BUILD_FOR": "10.0"}
    told = program("nvcc", "-c", "a file.cu", *NINE, **environment)
    assert told.stdout.splitlines() == ["-c", "a file.cu", "-gencode=arch=compute_100,code=sm_100"]


def test_without_a_compiler_it_says_so(tmp_path: Path) -> None:
    import tarfile

    top = tmp_path / "tiny-1"
    top.mkdir()
    (top / "setup.py").write_text("raise SystemExit('never reached')\n")
    with tarfile.open(tmp_path / "tiny.tar.gz", "w:gz") as archive:
        archive.add(top, "tiny-1")
    (tmp_path / "place").mkdir()
    told = program(tmp_path / "tiny.tar.gz", tmp_path / "place", "9.0")
    assert told.returncode == 1
    assert told.stderr.startswith("no CUDA compiler")


def test_an_extension_is_frozen_data() -> None:
    one = Extension(version="1", sha256="0" * 64, module="tiny", memory=1)
    assert one.variables([], 1) == {"TORCH_CUDA_ARCH_LIST": "", "MAX_JOBS": "1", "NVCC_THREADS": "1"}
