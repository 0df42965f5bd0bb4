"""Containers beside a job's own: the node's half of the batch script, with a real podman without root and a
registry that damages layers. The job's own container is a stand-in: podman's part in it is tested elsewhere.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from slurm.script import Batch, Beside, render
from tests.live.needs import need
from tests.live.parts_bases import busybox_tar
from tests.live.parts_faulty import Damaging
from tests.live.parts_served import Bottom, Entry, put, served
from tests.live.parts_users import User

pytestmark = [pytest.mark.live, pytest.mark.timeout(300)]
INSIDE = "/run/slipworks-podman"
PODMAN = """#!/bin/bash
# The job's own container is no container here: its command runs as it is. Anything else is podman's.
words=("$@")
while [ $# -gt 0 ] && [ "$1" != run ]; do shift; done
[ "${words[${#words[@]}-2]-}" = --rank ] || exec %s "${words[@]}"
for word in "${words[@]}"; do
    [[ $word == --mount=*'"target=%s"' ]] || continue
    word=${word#*'"source='}
    SOCKET=${word%%%%'"'*}/podman.sock
done
export SOCKET
exec bash "$COMMAND"
"""


class Node:
    """A node as the batch script sees it, for an ordinary user."""

    def __init__(self, user: User, folder: Path) -> None:
        self.user, self.folder = user, folder
        self.run, self.local = folder / "the run", folder / "local disk"
        self.meeting = self.run / "attempt-1/meeting"
        for each in (self.meeting, self.local, folder / "bin"):
            each.mkdir(parents=True)
        real = shutil.which("podman")
        (folder / "bin/podman").write_text(PODMAN % (real, INSIDE))
        (folder / "bin/podman").chmod(0o755)
        (folder / "registries.conf").write_text('[[registry]]\nlocation = "localhost"\ninsecure = true\n')
        for path in (folder, *folder.rglob("*")):
            shutil.chown(path, user.name)
        folder.chmod(0o755)

    def ran(self, command: str, images: list[str], insecure: str) -> tuple[int, str]:
        """The node's part of a job, with this as what its container does; exit code and log."""
        (self.folder / "registries.conf").write_text(
            f'[[registry]]\nlocation = "{insecure}"\ninsecure = true\n'
        )
        (self.run / "prepull").write_text("".join(f"{each}\n" for each in images))
        (self.folder / "command").write_text(command)
        batch = Batch(
            options={}, run=self.run, nodes=1, container=("podman", "run", "--mount=type=x", "image"),
            rank_token="@rank@", words_at=2, beside=Beside(folder=INSIDE, data_root=str(self.local)),
        )  # fmt: skip
        (self.run / "job.sbatch").write_text(render(batch))
        env = {
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}", "HOME": str(self.folder),
            "COMMAND": str(self.folder / "command"), "SLURM_NODEID": "0", "SLURMD_NODENAME": "n1",
            "SLURM_JOB_ID": str(os.getpid()), "TMPDIR": str(self.folder),
            "CONTAINERS_REGISTRIES_CONF": str(self.folder / "registries.conf"),
        }  # fmt: skip
        argv = ["bash", str(self.run / "job.sbatch"), "node", "1"]
        done = self.user.do(
            partial(subprocess.run, argv, env=env, cwd="/", stdin=subprocess.DEVNULL, capture_output=True)
        )
        log = self.run / "attempt-1/node-0.log"
        said = log.read_text() if log.exists() else ""
        return done.returncode, said + done.stdout.decode() + done.stderr.decode()

    def left(self) -> list[str]:
        return [str(each) for each in (*self.local.iterdir(), *self.folder.glob("slipworks*"))]


@pytest.fixture
def node(ordinary_user: User) -> Iterator[Node]:
    need(shutil.which("podman"), "podman is not installed")
    folder = ordinary_user.folder / "a node"
    yield Node(ordinary_user, folder)
    ordinary_user.do(partial(subprocess.run, ["podman", "unshare", "rm", "-rf", str(folder)], check=False))
    shutil.rmtree(folder, ignore_errors=True)


COMMAND = """
echo "images $(podman --url "unix://$SOCKET" images --format '{{.Repository}}' | sort | tr '\\n' ' ')"
podman --url "unix://$SOCKET" run --detach --name=left --network=host %s sleep 1000 >/dev/null && echo started
podman --url "unix://$SOCKET" run --rm --network=none %s sh -c 'echo it runs as $(id -u)'
exit 7
"""


def test_images_come_four_at_a_time_and_once_more_when_damaged(node: Node, registry_host: str) -> None:
    names = [f"sandbox{number}" for number in range(6)]
    layers: set[str] = set()
    for name in names:
        image = served(busybox_tar(), [Entry(f"etc/{name}", os.urandom(2000))])
        put(Bottom(name=name, image=image), registry_host, name, "1")
        layers.add(list(image.blobs)[-1])
    proxy = Damaging(registry_host, {"sandbox1": 1, "sandbox4": 9}, layers)
    try:
        of = [f"{proxy.host}/{name}:1" for name in names]
        code, said = node.ran(COMMAND % (of[1], of[1]), [*of, f"{proxy.host}/none:1"], proxy.host)
    finally:
        proxy.close()
    assert code == 7, said
    there = next(line for line in said.splitlines() if line.startswith("images "))
    assert there.split()[1:] == [f"{proxy.host}/{name}" for name in names if name != "sandbox4"], said
    assert proxy.most == 4, "so many, and no more"
    assert f"note: {of[1]} is pulled once more" in said and f"warning: no image {of[1]}" not in said, said
    assert f"warning: no image {of[4]}" in said and f"warning: no image {proxy.host}/none:1" in said
    assert "started" in said and "it runs as 0" in said, said
    assert node.left() == [], "neither images nor the container that was left"
    assert lives(node) == [], "nothing runs on"


def lives(node: Node) -> list[str]:
    """What runs with this node's home, but for what has ended just now."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if f"HOME={node.folder}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                    found.append((entry / "cmdline").read_text().replace("\0", " "))
            except OSError:
                continue
    return found


def test_nothing_of_anyone_else_s_is_seen_or_removed(node: Node, registry_host: str) -> None:
    """The user's own images stay where they are; so does another job's folder that is in use."""
    image = served(busybox_tar())
    of = put(Bottom(name="x", image=image), registry_host, "own", "1")

    def typed(*words: str) -> subprocess.CompletedProcess[str]:
        """In the user's own environment: these tests' settings of podman are not its."""
        env = {**os.environ, "HOME": str(node.folder)}
        return subprocess.run(words, env=env, capture_output=True, text=True, check=False)

    pulled = node.user.do(partial(typed, "podman", "pull", "--quiet", "--tls-verify=false", of))
    assert pulled.returncode == 0, pulled.stderr
    other = node.local / "slipworks-podman-1-0.abcdef"
    other.mkdir()
    shutil.chown(other, node.user.name)
    holder = subprocess.Popen(["flock", "--shared", str(other), "sleep", "60"])
    try:
        code, said = node.ran(
            'echo "images $(podman --url "unix://$SOCKET" images --quiet | wc -l)"; exit 7', [], registry_host
        )
        assert code == 7 and "images 0" in said, said
        assert other.is_dir() and node.left() == [str(other)]
    finally:
        holder.kill()
        holder.wait()
    told = node.user.do(partial(typed, "podman", "images", "--format", "{{.Repository}}"))
    assert told.stdout.split() == [f"{registry_host}/own"]
