"""Slurm from within a container: the host's own client by its own loader, whatever the image's C library."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from containers.engine import Bind, ContainerRun
from containers.engines.apptainer import Apptainer
from kit import process
from kit.errors import SlipworksError
from kit.nouns import LayerBuild, Platform
from runner import images, mounted_layer
from slurm import host_client
from slurm.client import HOST
from tests.live.needs import need
from tests.live.parts_engines import User
from tests.live.parts_slurm import Slurm
from tests.live.test_submit_slurm import Login, logs

pytestmark = pytest.mark.live
PYTHON = "/slipworks/python/bin/python3.13"
# Tells what happened as JSON; a failure as its message.
PROGRAM = """
import json, os, sys
from pathlib import Path
from kit.errors import SlipworksError
from slurm import client
try:
    found = client.find(json.loads(sys.argv[2]))
    options = ["--comment=slipworks:inside", "--job-name=it's a $(touch hit)"]
    id = found.submit(Path(sys.argv[1]), options, ["a b"])
    print(json.dumps({"way": found.way.name, "id": id, "user": os.getuid(),
                      "jobs": [each.id for each in found.jobs()]}))
    found.cancel(["9999"])
except SlipworksError as failure:
    print(json.dumps({"failure": failure.message}))
"""
SCRIPT = """#!/bin/bash
env -0 > "$SLURM_SUBMIT_DIR/environment-$SLURM_JOB_ID"
printf '%s\\n' "$(id -un)" "$@"
"""


@pytest.fixture(scope="module")
def layer_folder(slipworks: LayerBuild, slurm: Slurm) -> Path:
    folder = slurm.folder / "layer"
    folder.mkdir()
    process.run(["tar", "-C", folder, "-xzf", slipworks.path], what="unpack the layer")
    return folder / "slipworks"


@pytest.fixture(scope="module")
def opened(rooted: Callable[[str], Path], slurm: Slurm) -> Callable[[str], Path]:
    """suite -> its root where ordinary users reach it, by links to the same files."""

    def root(suite: str) -> Path:
        folder = slurm.folder / f"root-{suite}"
        if not folder.exists():
            process.run(["cp", "-al", rooted(suite), folder], what="link a root")
        return folder

    return root


@pytest.fixture(scope="module")
def here(slurm: Slurm) -> host_client.HostFacts:
    sbatch = process.find("sbatch", "apt-get install slurm-wlm")
    return host_client.facts(str(sbatch.parent), slurm.env)


@pytest.fixture(scope="module")
def script(slurm: Slurm) -> Path:
    path = slurm.shared / "inside.sh"
    path.write_text(SCRIPT)
    path.chmod(0o755)
    return path


Tried = Callable[..., dict[str, object]]


@pytest.fixture
def tried(slurm: Slurm, layer_folder: Path, ordinary_user: User, script: Path) -> Tried:
    """(root, binds, logins, variables) -> what PROGRAM says in a container of it, as an ordinary user."""
    try:
        Apptainer().check()
    except SlipworksError as reason:
        need(False, reason.message)
    work = slurm.shared / "work"
    work.mkdir(exist_ok=True)
    work.chmod(0o777)

    def run(
        root: Path, binds: tuple[Bind, ...], logins: tuple[str, ...] = (), **env: str
    ) -> dict[str, object]:
        words = (PYTHON, "-c", PROGRAM, str(script), json.dumps(logins))
        own = (Bind(layer_folder, "/slipworks", True), Bind(work, str(work)))
        inside = ContainerRun(image=str(root), argv=words, env=env, binds=(*binds, *own), workdir=str(work))

        def container() -> subprocess.CompletedProcess[str]:
            argv = Apptainer().run_argv(inside)
            return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)

        done = ordinary_user.do(container) if os.geteuid() == 0 else container()
        assert done.stdout, done.stderr
        answer: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
        return answer

    return run


def bound(here: host_client.HostFacts) -> tuple[Bind, ...]:
    return tuple(Bind(Path(source), target, True) for source, target in host_client.needed(here, HOST))


@pytest.mark.parametrize("suite", ["bullseye", "trixie", "busybox"])
def test_submits_whatever_the_images_libc(
    suite: str,
    slurm: Slurm,
    here: host_client.HostFacts,
    opened: Callable[[str], Path],
    tried: Tried,
    ordinary_user: User,
) -> None:
    """Older than the host's, newer, and none at all. What a job around it was told reaches no new job."""
    nested = {"SLURM_JOB_ID": "4711", "SLURM_NNODES": "64", "SBATCH_PARTITION": "nowhere", "PMIX_RANK": "3",
              "LD_LIBRARY_PATH": "/lib/x86_64-linux-gnu", "SECRET": "s3cret"}  # fmt: skip
    told = tried(opened(suite), bound(here), **host_client.variables(here), **nested)
    assert told.get("way") == "the host's own client", told
    assert told["jobs"] and told["id"] in told["jobs"]  # type: ignore[operator]
    job = int(str(told["id"]))
    assert slurm.wait_for(job) == "COMPLETED"
    shown = slurm.run("scontrol", "show", "job", str(job)).stdout
    assert f"UserId={ordinary_user.name}(" in shown
    assert "JobName=it's a $(touch hit)" in shown
    raw = (slurm.shared / "work" / f"environment-{job}").read_bytes()
    env = dict(each.split("=", 1) for each in raw.decode().split("\0") if each)
    assert (env["SLURM_JOB_ID"], env["SLURM_NNODES"]) == (str(job), "1")
    assert not {"SBATCH_PARTITION", "PMIX_RANK", "LD_LIBRARY_PATH", "SECRET", "APPTAINER_NAME"} & set(env)
    out = (slurm.shared / "work" / f"slurm-{job}.out").read_text()
    assert out == f"{ordinary_user.name}\na b\n"


@pytest.mark.parametrize(
    ("left_out", "named"),
    [
        ("plugins", "the plugin folder"),
        ("settings", "slurm.conf"),
        ("host", "no client of a host's is bound"),
    ],
)
def test_what_is_missing_is_named(
    left_out: str,
    named: str,
    here: host_client.HostFacts,
    opened: Callable[[str], Path],
    tried: Tried,
) -> None:
    lacking = {
        "plugins": here.plugins,
        "settings": (str(Path(here.conf or "").parent),),
        "host": tuple(target for _, target in host_client.needed(here, HOST) if target.startswith(HOST)),
    }[left_out]
    binds = tuple(each for each in bound(here) if each.target not in lacking)
    told = tried(opened("bullseye"), binds, **host_client.variables(here))
    assert named in str(told.get("failure")), told


@pytest.mark.timeout(600)
def test_a_job_is_submitted_from_a_shell_in_an_image(
    slurm: Slurm,
    ordinary_user: User,
    opened: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`runner shell` on the login node, `runner submit` in it, in an image older than the host and without
    the kit; the job runs in that image, and its status is read from inside too."""
    image = slurm.shared / "older.sif"
    process.run(
        ["apptainer", "build", "--mksquashfs-args=-Xcompression-level 1", image, opened("bullseye")],
        what="pack an image",
    )
    login = Login(slurm, ordinary_user, slurm.shared / "a user's cache")
    monkeypatch.setenv("SLIPWORKS_CACHE", str(login.cache))
    mounted_layer.made(images.store(), Platform.host(), "apptainer")
    login.runs.mkdir(exist_ok=True)
    for path in (login.runs, login.cache, *login.cache.rglob("*")):
        shutil.chown(path, ordinary_user.name)
    job = slurm.shared / "inside.yaml"
    job.write_text(f"name: inside\nimage: {image}\nray: false\nrun: id -un > /slipworks-run/who; exit 3\n")
    shell = ("shell", "--image", str(image), "--engine=apptainer", "--")
    told = login.type(
        *shell, "runner", "submit", str(job), "--json", SLURM_JOB_ID="1", SBATCH_PARTITION="nix"
    )
    assert told.code == 0, told.err
    assert login.ended(told) == "FAILED"
    assert (told.folder.root / "who").read_text().strip() == ordinary_user.name, logs(told.folder)
    seen = login.type(*shell, "runner", "status", told.folder.run_id, "--json")
    assert seen.code == 0, seen.err
    assert told.folder.run_id in seen.out
    code = login.type(*shell, "sh", "-c", "ldd --version | head -n 1; exit 7")
    assert code.code == 7
    assert "2.31" in code.out
