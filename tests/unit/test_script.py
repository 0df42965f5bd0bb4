"""The text of batch scripts: those committed for every cluster, and what all of them keep to."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from slurm.script import Batch, Present, render
from tests.golden import slurm_scripts
from tests.unit.parts_hostile import values
from tests.unit.parts_script import RANK

TEXTS = slurm_scripts.texts()
PLAIN = Batch(options={}, run=Path("/run"), nodes=1, container=("engine", "image"), rank_token=RANK)
FULL = Batch(
    options={"job-name": "it's", "exclusive": True}, run=Path("/a run/it's\r"), nodes=16, rank_token=RANK,
    container=("engine", "run", "--a=$(b),c", f"--name={RANK}", "image"), words_at=2,
    remove=("engine", "rm", RANK), modules=("gcc/12", "a b"), fabric=("/usr/lib/*.so", "/opt/a b/*"),
    devices=("/dev/cxi*",), temporary=True, submits=True,
    present=(Present("/home/it's me", "/home/it's me", False), Present("/usr", "/x/usr")),
    have=("engine", "exists"), fetch=("engine", "pull"), restarts=2, secrets=(Path("/a run/s"), Path("/b")),
)  # fmt: skip
SHAPES = {"plain": render(PLAIN), "full": render(FULL), **TEXTS}


@pytest.mark.parametrize("name", TEXTS)
def test_no_drift(name: str) -> None:
    """A file that is missing fails as one that differs does."""
    assert (slurm_scripts.FOLDER / name).read_text() == TEXTS[name], "make golden"


def test_no_file_without_a_cluster() -> None:
    assert {file.name for file in slurm_scripts.FOLDER.iterdir()} == set(TEXTS)
    known = {"vista", "lonestar", "jureca", "jupiter", "juwels", "isambard", "fasrc", "generic"}
    assert known <= {name.removesuffix(".sbatch") for name in TEXTS}


@pytest.mark.parametrize("name", SHAPES)
def test_bash_reads_it(name: str) -> None:
    checked = subprocess.run(["bash", "-n"], input=SHAPES[name], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_bash_reads_hostile_values() -> None:
    hostile = values("x")
    text = os.fsencode(render(plain_with(tuple(hostile))))
    assert subprocess.run(["bash", "-n"], input=text, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(
    not shutil.which("shellcheck") and not os.environ.get("CI"), reason="shellcheck is not installed"
)
@pytest.mark.parametrize("name", SHAPES)
def test_shellcheck_has_nothing_to_say(name: str) -> None:
    command = ["shellcheck", "--shell=bash", "--norc", "-"]
    checked = subprocess.run(command, input=SHAPES[name], capture_output=True, text=True, check=False)
    assert checked.stdout + checked.stderr == ""


@pytest.mark.parametrize("name", SHAPES)
def test_one_srun_and_no_python(name: str) -> None:
    code = [line.split(" # ")[0] for line in SHAPES[name].splitlines() if not line.lstrip().startswith("#")]
    starts = [line for line in code if re.match(r"\s*srun\b", line)]
    assert len(starts) == 1
    assert not [line for line in code if re.search(r"\bpython|\bsleep\b|\bsqueue\b|^ *eval\b", line)]


@pytest.mark.parametrize("name", SHAPES)
def test_directives_come_first(name: str) -> None:
    """sbatch stops at the first line that is neither empty nor a comment."""
    lines = SHAPES[name].splitlines()
    assert lines[0] == "#!/bin/bash"
    last = max((number for number, line in enumerate(lines) if line.startswith("#SBATCH")), default=0)
    assert all(line.startswith("#") for line in lines[: last + 1])


@pytest.mark.parametrize("name", TEXTS)
def test_lines_are_for_people(name: str) -> None:
    """What is long are values."""
    text = TEXTS[name]
    assert not [line for line in text.splitlines() if line != line.rstrip()]
    assert "\n\n\n" not in text
    assert text.endswith("esac\n")


@pytest.mark.parametrize("name", TEXTS)
def test_no_secret(name: str) -> None:
    assert not any(secret in TEXTS[name] for secret in slurm_scripts.TYPICAL.secrets)


def plain_with(words: tuple[str, ...]) -> Batch:
    return Batch(options={}, run=Path("/run"), nodes=1, container=("engine", *words), rank_token=RANK)
