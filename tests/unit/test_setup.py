"""setup.sh and the Makefile, run for real in a copy of what they read, in a folder with an awkward name."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PROGRAMS = (
    "awk", "cat", "cksum", "dirname", "env", "grep", "id", "make", "mkdir", "mv", "rm", "sed", "sh", "sleep",
    "stat", "tr", "uname",
)  # fmt: skip
apt_host = pytest.mark.skipif(not shutil.which("apt-get"), reason="no apt here: set-up names no packages")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The files that set-up reads, without a .venv."""
    folder = tmp_path / 'it\'s a "tree" $(touch hit)'
    folder.mkdir()
    for name in ("setup.sh", "Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy2(ROOT / name, folder / name)
    return folder


@pytest.fixture
def bare(tmp_path: Path) -> dict[str, str]:
    """An environment whose PATH has what every Debian has, and no engine, no sudo, no mmdebstrap."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for program in (*PROGRAMS, "apt-get", "dpkg-query"):
        if found := shutil.which(program):
            (folder / program).symlink_to(found)
    return {"PATH": str(folder), "HOME": str(tmp_path)}


def run(folder: Path, env: dict[str, str], *argv: str, user: int | None = None) -> tuple[int, str, str]:
    done = subprocess.run(argv, cwd=folder, env=env, capture_output=True, text=True, user=user,
                          stdin=subprocess.DEVNULL, check=False)  # fmt: skip
    hits = [folder / "hit"] if folder == ROOT else folder.parent.rglob("hit")  # ROOT's neighbours are others'
    assert not any(hit.exists() for hit in hits), "something ran what is only a name"
    return done.returncode, done.stdout, done.stderr


@apt_host
def test_dry_run_names_what_is_missing_and_does_nothing(tree: Path, bare: dict[str, str]) -> None:
    before = sorted(tree.iterdir())
    code, out, err = run(tree, bare, "./setup.sh", "demo", "--dry-run")
    assert (code, out) == (0, "")
    line = re.search(r"would run: apt-get install --no-install-recommends (.+)", err)
    assert line, err
    assert {"podman", "uidmap"} <= set(line[1].split())
    assert "requirements.lock" in err
    assert sorted(tree.iterdir()) == before


@apt_host
def test_tests_need_more_and_each_package_is_named_once(tree: Path, bare: dict[str, str]) -> None:
    err = run(tree, bare, "./setup.sh", "test", "--dry-run")[2]
    packages = re.findall(r"would run: apt-get install --no-install-recommends (.+)", err)[0].split()
    assert {"podman", "buildah", "shellcheck", "squashfs-tools"} <= set(packages)
    assert len(packages) == len(set(packages))


@apt_host
def test_without_root_the_administrator_gets_the_exact_line(tree: Path, bare: dict[str, str]) -> None:
    """An ordinary user without sudo: nothing is tried, the line is complete, and the code is its own."""
    user = None
    if os.geteuid() == 0:
        user = 65534
        for folder in (tree, *tree.parents[:-1]):
            if not folder.stat().st_mode & 1:
                folder.chmod(0o755)
    code, out, err = run(tree, bare, "./setup.sh", "demo", user=user)
    assert (code, out) == (20, "")
    assert re.search(r"^  apt-get install --no-install-recommends .*podman.*", err, re.MULTILINE), err
    assert not (tree / ".venv").exists()


def test_an_environment_of_the_users_is_left_alone(tree: Path) -> None:
    mine = tree / ".venv/bin/python"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    code, out, err = run(tree, dict(os.environ), "./setup.sh", "kit")
    assert (code, out) == (21, "")
    assert "was not made by this set-up" in err
    assert mine.read_text() == "mine"


@pytest.mark.parametrize("words", [(), ("all",), ("demo", "--force")])
def test_wrong_words(tree: Path, words: tuple[str, ...]) -> None:
    code, out, err = run(tree, dict(os.environ), "./setup.sh", *words)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert "\nhint: ./setup.sh kit|demo|test" in err


def test_a_ready_checkout_is_left_as_it_is() -> None:
    if not (ROOT / ".venv/made-by-setup").exists():
        pytest.skip("this .venv was not made by setup.sh")
    before = (ROOT / ".venv").stat().st_mtime_ns
    assert run(ROOT, dict(os.environ), "./setup.sh", "kit") == (0, "", "")
    assert (ROOT / ".venv").stat().st_mtime_ns == before


# --- make

AWKWARD = "a  b \"c\" 'd' $(touch hit) `touch hit` $HOME \\ # % ; & |"


def made(tree: Path, *words: str, env: dict[str, str] | None = None) -> list[str]:
    """What `make` would start the runner with: the words that reach a program put in the runner's place."""
    probe = tree / "probe"
    probe.write_text("#!/bin/sh\nfor word; do printf '%s\\n' \"$word\"; done\n")
    probe.chmod(0o755)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    code, out, err = run(tree, clean | (env or {}), "make", "-s", "-o", "kit", "RUNNER=./probe", *words)
    assert (code, err) == (0, "")
    return out.splitlines()


def test_only_what_was_given_is_passed_on(tree: Path) -> None:
    assert made(tree, "image") == ["image", "build", "cpu"]
    assert made(tree, "image", "ARCH=gh200", "LINE=cu12", "ENGINE=podman") == [
        "image", "build", "gh200", "--line=cu12", "--engine=podman",
    ]  # fmt: skip
    assert made(tree, "sif") == ["image", "build", "cpu", "--format=sif"]


@pytest.mark.parametrize("value", [AWKWARD, "$(shell touch hit)", "$$", "--help"])
def test_values_arrive_as_typed(tree: Path, value: str) -> None:
    expected = ["image", "build", "h100", f"--line={value}"]
    assert made(tree, "image", "ARCH=h100", f"LINE={value}") == expected
    assert made(tree, "image", "ARCH=h100", env={"LINE": value}) == expected


def test_help_lists_every_target(tree: Path) -> None:
    listed = set(re.findall(r"^  make ([a-z.-]+) ", run(tree, dict(os.environ), "make")[1], re.MULTILINE))
    declared = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert declared
    assert listed == set(declared[1].split()) - {"kit"}


# --- the lock of the kit itself


def test_the_lock_fits_the_project_and_holds_only_hashes() -> None:
    text = (ROOT / "requirements.lock").read_text()
    assert "://" not in text
    locked = dict(re.findall(r"^([a-z0-9.-]+)==([^ ]+)", text, re.MULTILINE))
    blocks = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]
    assert all("--hash=sha256:" in block for block in blocks)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = project["dependency-groups"].values()
    for wanted in (*project["project"]["dependencies"], *(each for group in groups for each in group)):
        requirement = Requirement(wanted)
        assert requirement.specifier.contains(locked[requirement.name]), f"make requirements.lock: {wanted}"
