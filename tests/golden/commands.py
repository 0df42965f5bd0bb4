"""What `runner submit --dry-run` prints, engine by engine, on hosts that are written down here.

`python -m tests.golden.commands` writes the files.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

from msgspec import structs

from containers.engine import Engine
from containers.engines.apptainer import Apptainer
from containers.engines.docker import Docker
from containers.engines.podman import Podman
from containers.host import Host
from kit import say, shell
from runner import submission
from runner.job import Job, Mount
from runner.runs import RunFolder
from tests.golden import written

FOLDER = Path(__file__).with_name("submit-dry-run")

USER = Host(
    root=False, user="ada", cgroups="v2", systemd=True, capabilities=0, every_capability=False,
    limits=(1024, 4096), fuse="open", subids=65536, user_namespaces=True, runtime_dir="ok",
    runtimes=("crun", "runc"), init="/usr/bin/tini-static",
)  # fmt: skip
IN_A_CONTAINER = structs.replace(
    USER, root=True, user="root", cgroups="hybrid", systemd=False, runtime_dir="stale", subids=0, init=None
)

AWKWARD = Job(
    name="awkward",
    arch="cpu",
    nodes=2,
    run=("python", "-c", "print('a b', \"c\")\n"),
    workdir="/data/it's, here",
    env={"SPACES": "a  b ", "QUOTES": "'\"`$HOME`\"'", "COMMAS": "a,b=c,,", "LINES": "one\ntwo\n"},
    secrets=("A_KEY",),
    binds=(
        Mount(source='/home/ada/it\'s, "here": 1', target="/data/it's, here"),
        Mount(source="/srv/$models", target="/models", read_only=True),
    ),
)
WITH_A_GPU = structs.replace(AWKWARD, name="gpu", arch="h100", nodes=1, gpus=1)
RUN = RunFolder(Path("/home/ada/my runs/awkward-20261121-120000-0badcafe"))
SCRATCH = Path("/home/ada/.cache/slipworks/scratch")


def texts() -> dict[str, str]:
    """File name -> text. The same on every machine."""
    return {f"{name}.txt": _printed(engine, job, image) for name, engine, job, image in _cases()}


def write() -> None:
    written.write(FOLDER, texts())


def _cases() -> Iterator[tuple[str, Engine, Job, str]]:
    image = "localhost/slipworks/cpu:cpu-amd64-0123456789ab"
    sif = "/home/ada/.cache/slipworks/images/cpu, 'one'.sif"
    for where, host, job in (("user", USER, AWKWARD), ("root-in-a-container", IN_A_CONTAINER, WITH_A_GPU)):
        yield f"podman-{where}", Podman(None, host), job, image
        yield f"docker-{where}", Docker(None, host), job, image
        yield f"apptainer-{where}", Apptainer(None, host), job, sif


def _printed(engine: Engine, job: Job, image: str) -> str:
    """What docker asks of the machine itself is given here: the daemon's kind, the user."""
    with (
        patch.object(Docker, "_rootless", lambda _: False),
        patch.object(os, "geteuid", lambda: 1000),
        patch.object(os, "getegid", lambda: 1000),
        patch.object(say, "once", lambda _: None),  # notes of hosts that are not this one
    ):
        argvs = submission.argvs(job, RUN, engine, image, SCRATCH)
    return "".join(f"{shell.line(argv)}\n" for argv in argvs)


if __name__ == "__main__":
    write()
