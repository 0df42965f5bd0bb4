"""The text of batch scripts: those committed for every cluster, and what all of them keep to."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from msgspec import structs

from slurm.script import Batch, Present, Servers, render
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
SERVERS = Servers(
    options={"partition": "cpu", "nodes": 2}, nodes=2, cpus=4, engine="apptainer", layer="/a run/it's/layer",
    words=("sandbox", "serve", "--set", '{"queue":1}'), cache="/a cache", root="/a disk",
)  # fmt: skip
WITH_SANDBOXES = {
    f"sandboxes by {engine}": render(
        structs.replace(FULL, sandboxes=structs.replace(SERVERS, engine=engine), container=(inner, "run"))
    )
    for engine, inner in (("apptainer", "podman"), ("podman", "apptainer"))
}
SHAPES = {"plain": render(PLAIN), "full": render(FULL), **WITH_SANDBOXES, **TEXTS}


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
    starts = [line for line in code if re.match(r"\s*(exec )?srun\b", line)]
    assert len(starts) == 1 + (name in WITH_SANDBOXES), "one more for the second part of a job"
    code = [line for line in code if '"$layer"/python' not in line]
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
