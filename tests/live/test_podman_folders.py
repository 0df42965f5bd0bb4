"""Podman without root in a job whose home is on a network: the batch script's part, and the real podman."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from slurm import script
from slurm.script import Batch, render
from tests.live.needs import need
from tests.live.parts_engines import User

pytestmark = pytest.mark.live

NETWORK = '#!/bin/sh\n[ "$1 $2 $3" = "-f -c %T" ] && echo nfs || exec /usr/bin/stat "$@"\n'
TRY = """
set -u
rank=0 host=n1 run=$HOME
locks=()
say() { echo "$*"; }
pause() { sleep "$1"; }
fail() { echo "failed: $*"; exit "$1"; }
%s
podman_folders
echo "own ${podman_own-}"
podman info --format 'graph {{.Store.GraphRoot}}
driver {{.Store.GraphDriverName}}'
pause=$(cat "${podman_own:-/none}/run/libpod/tmp/pause.pid" 2>/dev/null) && echo "pause $pause"
leave_podman
[ ! -e "${podman_own:-/none}" ] && echo gone
"""


TEMPLATES = Path(script.__file__).parent / "templates"
PODMAN = re.sub(r"^\{%.*%\}\n", "", (TEMPLATES / "podman.j2").read_text(), flags=re.MULTILINE)
FUNCTIONS = (TEMPLATES / "folders.j2").read_text() + PODMAN


def tried(user: User, **env: str) -> dict[str, str]:
    def work() -> str:
        done = subprocess.run(
            ["bash", "-c", TRY % FUNCTIONS], env={**os.environ, **env}, capture_output=True, text=True
        )
        return f"{done.stdout}\nerrors {done.stderr.strip()}"

    lines = user.do(work).splitlines()
    return dict(line.partition(" ")[::2] for line in lines)


@pytest.fixture
def with_network(ordinary_user: User, tmp_path: Path) -> str:
    """A PATH on which the home seems to be on NFS."""
    need(shutil.which("podman"), "podman is not installed")
    folder = ordinary_user.folder / "network"
    folder.mkdir(exist_ok=True)
    (folder / "stat").write_text(NETWORK)
    (folder / "stat").chmod(0o755)
    folder.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def test_a_home_on_a_network_holds_no_images(ordinary_user: User, with_network: str) -> None:
    said = tried(ordinary_user, PATH=with_network, SLURM_JOB_ID="7")
    own = said["own"]
    assert own.startswith(f"{ordinary_user.folder}/slipworks-podman-7-0."), said
    assert said["graph"] == f"{own}/storage"
    assert said["driver"] == "overlay"
    assert "gone" in said
    deadline = time.monotonic() + 10
    while lives(said["pause"]):  # podman's own process, which holds the namespace
        assert time.monotonic() < deadline, "it is left behind"
        time.sleep(0.05)


def lives(pid: str) -> bool:
    """Whether it is a process; a zombie, which only its parent can end, is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_home_on_this_node_is_left_alone(ordinary_user: User, with_network: str) -> None:
    """And a session's folder that is no more is not handed on."""
    said = tried(ordinary_user, XDG_RUNTIME_DIR="/run/user/none")
    assert said["own"] == "" and said["graph"].startswith(f"{ordinary_user.folder}/")


def test_what_the_user_chose_is_left_alone(ordinary_user: User, with_network: str) -> None:
    chosen = ordinary_user.folder / "mine.conf"
    mine = ordinary_user.folder / "mine"
    chosen.write_text(
        f"[storage]\ndriver = 'overlay'\ngraphroot = '{mine}'\nrootless_storage_path = '{mine}'\n"
    )
    chosen.chmod(0o644)
    said = tried(ordinary_user, PATH=with_network, CONTAINERS_STORAGE_CONF=str(chosen))
    assert said["own"] == "" and said["graph"] == str(mine)


def test_scripts_for_podman_have_it_and_no_others() -> None:
    for engine, has in (("podman", True), ("apptainer", False)):
        made = Batch(options={}, run=Path("/run"), nodes=1, container=[engine, "run", "x"], rank_token="@")
        assert (PODMAN in render(made)) is has
