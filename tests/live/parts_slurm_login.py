"""A real sshd as the login node of a private Slurm."""

from __future__ import annotations

import shutil
import socket
import subprocess
from pathlib import Path

from msgspec import Struct

from tests.live.needs import need
from tests.live.parts_slurm import Slurm
from tests.live.parts_slurm_daemons import until
from tests.live.parts_slurm_net import APART

CONFIG = """
HostKey {folder}/host
AuthorizedKeysFile {folder}/user.pub
PidFile none
ListenAddress 127.0.0.1
Port {port}
UsePAM yes
StrictModes no
PermitRootLogin yes
PasswordAuthentication no
SetEnv SLURM_CONF={conf}
"""
CLIENT = """
Host {name}
  HostName 127.0.0.1
  HostKeyAlias {name}
  Port {port}
  IdentityFile {folder}/%u
  IdentitiesOnly yes
  UserKnownHostsFile {folder}/known
"""


class Login(Struct, frozen=True):
    """host  the name that `ssh` knows it by where `path` comes first on PATH."""

    host: str
    path: Path


def serve(slurm: Slurm, *users: str, name: str = "login.test") -> Login:
    """An sshd that lets these users in, by a key that each of them (and root) can read."""
    for program, package in {"sshd": "openssh-server", "ssh": "openssh-client"}.items():
        need(shutil.which(program), f"{program} is not installed (apt-get install {package})")
    folder, port = slurm.folder / f"ssh-{name}", slurm.daemons.base + 2
    folder.mkdir()
    for key in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key], check=True)
    for user in users:
        shutil.copyfile(folder / "user", folder / user)
        (folder / user).chmod(0o600)
        shutil.chown(folder / user, user)
    (folder / "known").write_text(f"{name} {(folder / 'host.pub').read_text()}")
    given = {"folder": folder, "port": port, "conf": slurm.conf, "name": name}
    (folder / "sshd.conf").write_text(CONFIG.format(**given))
    (folder / "config").write_text(CLIENT.format(**given))
    (folder / "bin").mkdir()
    program = folder / "bin/ssh"
    program.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {folder}/config "$@"\n')
    program.chmod(0o755)
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd will not start without; holds nothing
    sshd = shutil.which("sshd")
    assert sshd  # it starts itself again for each connection, so it wants its whole path
    slurm.daemons.spawn("sshd", [*APART, sshd, "-D", "-e", "-f", str(folder / "sshd.conf")])
    until(lambda: _answers(port), "sshd's port", 20, slurm.daemons.logs)
    return Login(name, program.parent)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
