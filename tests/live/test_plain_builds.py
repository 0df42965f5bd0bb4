"""The committed texts, built by someone who never heard of this kit: by the commands in their own heads."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from containers import engine, secrets
from containers.engine import ContainerRun
from definitions import render
from kit.errors import SlipworksError
from kit.shell import quote
from tests.live.needs import need
from tests.live.parts_engines import User

pytestmark = [pytest.mark.live, pytest.mark.timeout(1500)]

PROGRAMS = ("mkdir", "podman", "docker", "apptainer", "tar")
LOOK = """set -e
python -c 'import ray, numpy, wandb; print("imported")'
ray --version
readlink -f /opt/stack/bin/python
ls -d /build /run/secrets 2>/dev/null || echo "nothing is left"
python - <<'END'
import importlib.util, numpy, pathlib
flags = pathlib.Path(importlib.util.cache_from_source(numpy.__file__)).read_bytes()[4]
print("hash-checked" if flags == 3 else f"flags {flags}")
END
grep -c ^ray== /opt/stack/stack.lock
"""
SEEN = [r"imported", r"ray, version 2\.[\d.]+", r"/usr/bin/python3\.\d+", r"nothing is left", "hash-checked",
        "1"]  # fmt: skip


def commands(name: str) -> dict[str, list[str]]:
    """The commands in the head of a text, by program: lines indented in the comment."""
    text = (render.RENDERED / "cpu" / name).read_text()
    found: dict[str, list[str]] = {program: [] for program in PROGRAMS}
    for line in text.splitlines():
        if line.startswith("#   ") and (program := line.split()[1]) in found:
            found[program].append(line.removeprefix("#   "))
    return found


def typed(command: str, folder: Path, *more: str) -> str:
    """Runs a line as a person would; `more` is what this machine asks for beyond it. Returns all output."""
    done = subprocess.run(
        ["sh", "-c", command + ' "$@"', "sh", *more],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}"
    return done.stdout


def assert_seen(argv: list[str]) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, f"{argv}\n{done.stdout}\n{done.stderr}"
    lines = done.stdout.splitlines()
    assert len(lines) == len(SEEN), done.stdout
    for line, pattern in zip(lines, SEEN, strict=True):
        assert re.fullmatch(pattern, line), line


def assert_no_settings_stay(inspected: str, found: secrets.BuildSecrets) -> None:
    """Neither names nor values of what the build was told in secret are in the image's record."""
    assert not re.search(r"PIP_|UV_|SSL_CERT|secrets", inspected)
    if found.index:
        values = re.findall(r"='?([^'\n]+)", found.index.read_text())
        assert not [value for value in values if "://" in value and value in inspected]


@pytest.fixture(scope="module")
def told() -> Iterator[secrets.BuildSecrets]:
    with secrets.gathered() as found:
        yield found


@pytest.fixture(scope="module")
def stranger(open_folder: Path) -> Path:
    """A folder with definitions/, and the base beside it, made by the first command of the head."""
    need(shutil.which("mmdebstrap"), "mmdebstrap is not installed (apt-get install mmdebstrap)")
    folder = open_folder / "a stranger's"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(render.DEFINITIONS, folder / "definitions", ignore=ignored)
    (first,) = commands("Containerfile")["mkdir"]
    typed(first, folder)
    return folder


def secret_flags(found: secrets.BuildSecrets) -> list[str]:
    there = {"index": found.index, "ca": found.ca}
    return [f"--secret=id={name},src={path}" for name, path in there.items() if path]


def buildkit_client() -> Path:
    """The first docker client on PATH that has BuildKit: inside, or from 23 on by the plug-in buildx."""
    for folder in os.get_exec_path():
        program = Path(folder) / "docker"
        if os.access(program, os.X_OK):
            said = subprocess.run([program, "--version"], capture_output=True, text=True).stdout
            version = re.search(r"version (\d+)\.", said)
            buildx = subprocess.run([program, "buildx", "version"], capture_output=True)
            if (version and int(version[1]) < 23) or buildx.returncode == 0:
                return program
    need(False, "no docker client here has BuildKit (apt-get install docker-buildx)")
    raise AssertionError


def works(name: str) -> engine.Engine:
    found = engine.get(name)
    try:
        found.check()
    except SlipworksError as reason:
        need(False, f"{name} does not work here: {reason.message}")
    return found


def test_podman(stranger: Path, private_storage: Path, told: secrets.BuildSecrets) -> None:
    podman = works("podman")
    load, build = commands("Containerfile")["podman"]
    typed(load, stranger)
    flags = ["--isolation=chroot", *secret_flags(told)]
    typed(build, stranger, *flags)
    assert_seen(podman.run_argv(ContainerRun(image="localhost/slipworks-cpu", argv=("sh", "-c", LOOK))))
    assert_no_settings_stay(typed("podman image inspect slipworks-cpu", stranger), told)
    again = typed(build, stranger, *flags)
    assert "Using cache" in again and "install.sh" in again
    assert "Installed" not in again


def test_docker(
    stranger: Path, private_dockerd: str, told: secrets.BuildSecrets, monkeypatch: pytest.MonkeyPatch
) -> None:
    docker = works("docker")
    monkeypatch.setenv("PATH", f"{buildkit_client().parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("DOCKER_BUILDKIT", "1")
    load, build = commands("Containerfile")["docker"]
    typed(load, stranger)
    typed("docker builder prune --all --force", stranger)  # other tests built by this daemon
    flags = ["--network=host", "--progress=plain", *secret_flags(told)]
    assert "Downloading ray" in typed(build, stranger, *flags)
    assert_seen(docker.run_argv(ContainerRun(image="slipworks-cpu", argv=("sh", "-c", LOOK))))
    inspected = typed("docker image inspect slipworks-cpu", stranger)
    assert_no_settings_stay(inspected, told)
    assert json.loads(inspected)[0]["Config"]["Labels"]["slipworks.line"] == "cpu"
    assert "Installed" not in typed(build, stranger, *flags)
    for lock in (stranger / "definitions/stacks/cpu").glob("cp313-*.lock"):
        lock.write_text(lock.read_text() + "# another file, the same packages\n")
    again = typed(build, stranger, *flags)
    assert "Installed" in again, "a changed lock must be installed again"
    assert "Downloading" not in again, "what was downloaded once comes from the cache mount"


def test_apptainer(stranger: Path, ordinary_user: User, told: secrets.BuildSecrets) -> None:
    """As an ordinary user. The base is the one that the Containerfile's head made, by the same command."""
    found = commands("apptainer.def")
    (first,), (unpack,), (build,) = found["mkdir"], found["tar"], found["apptainer"]
    make_folder, _, make_base = first.partition(" && ")
    (other,) = commands("Containerfile")["mkdir"]
    assert make_base.replace("../build", "build") == other.partition(" && ")[2]
    bundle = {name: path.read_text() for name in ("index", "ca") if (path := getattr(told, name))}

    works("apptainer")

    def work() -> None:
        home = ordinary_user.folder / "a stranger's"
        shutil.copytree(stranger / "definitions", home / "definitions")
        for name, text in bundle.items():
            (home / "run/secrets").mkdir(parents=True, exist_ok=True)
            (home / "run/secrets" / name).write_text(text)
        folder = home / "definitions"
        typed(make_folder, folder)
        (home / "build/bootstrap.tar").symlink_to(stranger / "build/bootstrap.tar")
        typed(unpack, folder)
        head, *rest = build.split(" ")
        flags = ["--bind", quote(f"{home / 'run'}:/run")] if bundle else []
        typed(" ".join([head, rest[0], *flags, *rest[1:]]), folder)
        argv = ["apptainer", "--quiet", "exec", "--cleanenv", "--no-mount=home,cwd", "slipworks-cpu.sif"]
        os.chdir(folder)
        assert_seen([*argv, "sh", "-c", LOOK])

    try:
        ordinary_user.do(work)
    except pytest.skip.Exception as skipped:  # raised in the user's process
        pytest.skip(str(skipped))
