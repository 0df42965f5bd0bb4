"""Real jobs as users submit them: the user, the cpu image as a SIF, and what is left on nodes afterwards."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import pytest
from msgspec import Struct, json

from containers import sif
from kit import shell
from kit.nouns import Platform
from runner import agent_layer, images
from runner.images import Made
from runner.runs import RunFolder
from tests.live import parts_left
from tests.live.needs import need
from tests.live.parts_cpu import stocked
from tests.live.parts_engines import User
from tests.live.parts_slurm import Slurm, Starter
from tests.live.parts_slurm_conf import Shape
from tests.live.parts_slurm_daemons import children, until

MAIN = "import sys; from runner.cli import main; sys.exit(main())"
PACKAGES = (Path(__file__).parents[2], Path(sysconfig.get_path("purelib")))


class Told(Struct):
    """What the runner said."""

    code: int
    out: str
    err: str

    @property
    def folder(self) -> RunFolder:
        return RunFolder(Path(json.decode(self.out)["run"]))

    @property
    def jobs(self) -> list[int]:
        return [int(each) for each in json.decode(self.out)["jobs"]]


def interpreter(user: User) -> str:
    """This Python, or the system's of the same version where this one lies in another user's home."""
    for program in (sys.executable, f"/usr/bin/python{sys.version_info[0]}.{sys.version_info[1]}"):
        if user.do(partial(os.access, os.path.realpath(program), os.X_OK)):
            return program
    need(False, f"{sys.executable} is closed to ordinary users")
    raise AssertionError


class Login:
    """A user on the login node of a cluster; root, with a cache of its own, where none is named."""

    def __init__(self, slurm: Slurm, user: User | None, cache: Path | None, **settings: str) -> None:
        self.slurm, self.user, self.settings = slurm, user, dict(settings)
        self.name = user.name if user else "root"
        self.cache = cache or images.store().root.parent
        self.runs = slurm.shared / f"{self.name}'s runs"
        if cache:
            self.settings["SLIPWORKS_CACHE"] = str(cache)

    def type(
        self, *words: str, terminal: bool = False, given: str = "", cwd: Path | None = None, **env: str
    ) -> Told:
        """A command of the runner, typed by the user, at a terminal where asked; `given` stands on its stdin.
        Empty variables are unset."""
        mine = {
            "SLIPWORKS_CLUSTER": "generic", "SLIPWORKS_RUNS": str(self.runs),
            "PYTHONPATH": os.pathsep.join(map(str, PACKAGES)),
        }  # fmt: skip
        python = interpreter(self.user) if self.user else sys.executable
        if self.user:
            mine["HOME"] = str(self.user.folder)
        argv = [python, "-c", MAIN, *words]
        if terminal:
            argv = ["script", "--quiet", "--return", "--command", shell.line(argv), "/dev/null"]
        name = self.user.name if self.user else None
        said = {key: value for key, value in (mine | self.settings | env).items() if value}
        done = self.slurm.run(*argv, user=name, env=said, check=False, cwd=cwd, given=given)
        assert "Traceback" not in done.stderr, done.stderr
        return Told(done.returncode, done.stdout, done.stderr)

    def submit(self, job: str, *words: str, **env: str) -> Told:
        """A job file's text, submitted from a folder of the user's own."""
        place = self.slurm.shared / "job's place"
        place.mkdir(exist_ok=True)
        place.chmod(0o755)
        (place / "job.yaml").write_text(job)
        told = self.type("submit", str(place / "job.yaml"), *words, "--json", terminal=False, **env)
        assert told.code == 0, told.err
        return told

    def ended(self, told: Told, seconds: float = 400) -> str:
        """The state of the first job once it has ended."""
        until(lambda: self.slurm.state(told.jobs[0]) not in LIVES, "the job's end", seconds,
              lambda: logs(told.folder))  # fmt: skip
        return self.slurm.wait_for(told.jobs[0])

    def code(self, told: Told) -> str:
        return self.slurm.show(told.jobs[0])["ExitCode"]


LIVES = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUED")


def logs(folder: RunFolder) -> str:
    """All that was said on the way."""
    found = sorted([*folder.root.glob("*.out"), *folder.root.glob("attempt-*/*.log")])
    return "\n".join(f"--- {each}\n{each.read_text(errors='replace')}" for each in found)


def said(folder: RunFolder, text: str, seconds: float = 120) -> None:
    """Waits until a log has the text."""
    until(lambda: text in logs(folder), f"{text!r} in a log", seconds, lambda: logs(folder))


@pytest.fixture(scope="session")
def cached_sif(cpu: Made, ordinary_user: User) -> Iterator[Path]:
    """The ordinary user's cache, in a place with a name, with the cpu image as a SIF: `Login`'s second."""
    need(shutil.which("apptainer"), "apptainer is not installed")
    with parts_left.apart("cache") as above:
        above.chmod(0o755)
        stock(above / "the user's cache", cpu, ordinary_user)
        yield above / "the user's cache"


PROLOG = """#!/bin/sh
say=${0%/*}/shared/prolog
[ -z "$SLURM_STEP_GPUS" ] || [ ! -r "$say" ] || cat "$say"
"""


@pytest.fixture(scope="session")
def hosts(slurm_like: Starter) -> Slurm:
    """Two nodes with addresses of their own; to jobs with GPUs a TaskProlog says what the file `prolog` has.

    Slurm is as slow to see that a node is dead as it is elsewhere.
    """
    return slurm_like(Shape(count=2, cpus=32), addresses=True, prolog=PROLOG, extra=("SlurmdTimeout=300",))


@pytest.fixture(scope="session")
def user(hosts: Slurm, cached_sif: Path, ordinary_user: User) -> Login:
    """An ordinary user of those nodes."""
    return Login(hosts, ordinary_user, cached_sif)


def stock(cache: Path, cpu: Made, user: User) -> None:
    source = images.store()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLIPWORKS_CACHE", str(cache))
        words = sif.squash().replace("-Xcompression-level 8", "-Xcompression-level 1")
        patch.setattr(sif, "squash", lambda at_once=1: words)
        stocked(images.store(), cpu, source, copied=True)
        images.make("cpu", format="sif")
    for path in (cache, *cache.rglob("*")):
        shutil.chown(path, user.name)


def mounted_agent(cache: Path, user: User) -> None:
    """Puts the agent's layer into the user's cache, as whoever ran `runner prebuild` has it."""
    made = agent_layer.squashfs(Platform.host(), images.store())
    there = cache / "layers" / made.name
    if not there.exists():
        there.parent.mkdir(exist_ok=True)
        shutil.copyfile(made, there)
        for path in (there.parent, there):
            shutil.chown(path, user.name)


class Traces(Struct, frozen=True):
    """What a job may leave on a node."""

    mounts: frozenset[str]
    sockets: frozenset[str]
    files: frozenset[str]

    def since(self, before: Traces) -> list[str]:
        new = [
            *(self.mounts - before.mounts),
            *(self.sockets - before.sockets),
            *(self.files - before.files),
        ]
        return sorted(new)


def traces(slurm: Slurm, name: str) -> Traces:
    """Of a node with a network of its own: mounts, sockets that listen or have a name, temporary files."""
    (first,) = children(slurm.daemons._running[name].pid)
    here = Path(f"/proc/{first}")
    tcp = [line.split() for file in ("tcp", "tcp6") for line in (here / "net" / file).open()]
    named = [line.split()[-1] for line in (here / "net/unix").open()]
    # In the state 0A a socket listens.
    listening = {f"port {int(row[1].rpartition(':')[2], 16)}" for row in tcp[1:] if row[3] == "0A"}
    ours = ("sw-*", "slipworks-[0-9]*", "slipworks-mounts-*", "slipworks-podman-*")
    files = [*(each for name in ours for each in Path("/tmp").glob(name)), *Path("/dev/shm").iterdir()]
    return Traces(
        mounts=frozenset(line.split()[1] for line in (here / "mounts").open()),
        sockets=frozenset({*listening, *(each for each in named if each.startswith(("/", "@")))}),
        files=frozenset(map(str, files)),
    )


def environment(folder: RunFolder, rank: int, attempt: int = 1) -> Mapping[str, str]:
    """What Slurm said to a step of that node."""
    raw = (folder.attempt(attempt).folder / f"step-{rank}").read_text()
    return dict(pair.split("=", 1) for pair in raw.split("\0")[:-1])
