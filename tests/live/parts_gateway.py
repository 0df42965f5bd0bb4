"""A gateway of a private Slurm: a host with a real sshd, and beyond it a web server that only it reaches."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from msgspec import Struct

from tests.live.needs import need
from tests.live.parts_engines import User
from tests.live.parts_slurm import Slurm
from tests.live.parts_slurm_daemons import until
from tests.live.parts_slurm_net import APART, ip

OUTSIDE, NAME = "198.51.100.7", "outside.test"  # of a network for documentation: nobody has a way there
SSH_PORT, WEB_PORT = 2222, 8080
PROGRAMS = {
    "sshd": "openssh-server", "ssh": "openssh-client", "proxychains4": "proxychains4", "ip": "iproute2",
}  # fmt: skip
SSHD = """
HostKey {folder}/host
AuthorizedKeysFile {folder}/user.pub
PidFile none
ListenAddress {address}
Port 2222
UsePAM yes
StrictModes no
PasswordAuthentication no
"""
WEB = """
import http.server, sys
class Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"from outside\\n")
        print("ASKED", self.path, self.client_address[0], flush=True)
    do_HEAD = do_GET
http.server.ThreadingHTTPServer((sys.argv[1], int(sys.argv[2])), Answers).serve_forever()
"""
PROXY = """
import http.server, select, socket, sys
class Tunnels(http.server.BaseHTTPRequestHandler):
    def do_CONNECT(self):
        host, port = self.path.rsplit(":", 1)
        with socket.create_connection((host, int(port)), timeout=10) as out:
            self.send_response(200)
            self.end_headers()
            print("CONNECTED", self.path, flush=True)
            both = {self.connection: out, out: self.connection}
            while True:
                for each in select.select(list(both), [], [])[0]:
                    if not (data := each.recv(65536)):
                        return
                    both[each].sendall(data)
http.server.ThreadingHTTPServer((sys.argv[1], 3128), Tunnels).serve_forever()
"""


class Gateway(Struct, kw_only=True):
    """address: as nodes reach it; key, known: files of the user who may come in."""

    slurm: Slurm
    space: str
    address: str
    key: Path
    known: Path

    def asked(self) -> list[str]:
        """The paths that the web server was asked for, each with the address that asked."""
        log = (self.slurm.folder / "log/web").read_text(errors="replace")
        return re.findall(r"^ASKED (\S+ \S+)$", log, re.MULTILINE)

    def sessions(self) -> list[int]:
        """Those processes of its sshd that serve somebody who is in."""
        found = subprocess.run(
            ["pgrep", "--full", r"^sshd(-session)?: [^/]*$"], capture_output=True, text=True
        )
        inside = Path(f"/run/netns/{self.space}").stat().st_ino
        return [int(each) for each in found.stdout.split() if _net(int(each)) == inside]

    def profile(self, **more: object) -> dict[str, object]:
        """What a user says of the cluster's way out."""
        return {
            "host": self.address, "port": SSH_PORT, "key": str(self.key), "known_hosts": str(self.known),
            "probe": f"http://{NAME}:{WEB_PORT}/probe", **more,
        }  # fmt: skip


def opened(slurm: Slurm, user: User) -> Gateway:
    """On the network of the Slurm's hosts, which ends with theirs."""
    for program, package in PROGRAMS.items():
        need(shutil.which(program), f"{program} is not installed (apt-get install {package})")
    net = slurm.daemons.net
    assert net, "a Slurm whose hosts have addresses"
    space, address = net.space("gateway"), f"{net.gateway.rpartition('.')[0]}.200"
    ip("netns", "add", space)
    ip("link", "add", f"{net.mark}v99", "type", "veth", "peer", "name", "eth0", "netns", space)
    ip("link", "set", f"{net.mark}v99", "master", net.mark, "up")
    ip("-n", space, "addr", "add", f"{address}/24", "dev", "eth0")
    ip("-n", space, "addr", "add", f"{OUTSIDE}/32", "dev", "lo")
    for link in ("eth0", "lo"):
        ip("-n", space, "link", "set", link, "up")
    with (net.folder / "hosts").open("a") as hosts:
        hosts.write(f"{address} gateway\n{OUTSIDE} {NAME}\n")
    made = Gateway(slurm=slurm, space=space, address="gateway", key=user.folder / "gateway key",
                   known=user.folder / "known gateways")  # fmt: skip
    _keys(made, user)
    _served(made, address)
    return made


def _keys(made: Gateway, user: User) -> None:
    folder = made.slurm.folder / "gateway"
    folder.mkdir()
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    shutil.copyfile(folder / "user", made.key)
    made.key.chmod(0o600)
    made.known.write_text(f"[{made.address}]:{SSH_PORT} {(folder / 'host.pub').read_text()}")
    for each in (made.key, made.known):
        shutil.chown(each, user.name)


def _served(made: Gateway, address: str) -> None:
    folder, slurm = made.slurm.folder / "gateway", made.slurm
    (folder / "sshd.conf").write_text(SSHD.format(folder=folder, address=address))
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd will not start without; holds nothing
    here, python = ["nsenter", f"--net=/run/netns/{made.space}"], shutil.which("python3")
    sshd = shutil.which("sshd")
    assert sshd and python
    daemons = {
        "gateway": [sshd, "-D", "-e", "-f", str(folder / "sshd.conf")],
        "web": [python, "-c", WEB, OUTSIDE, str(WEB_PORT)],
        "proxy": [python, "-c", PROXY, address],
    }
    for name, argv in daemons.items():
        slurm.daemons.spawn(name, [*here, *APART, *argv])
    for host, port in ((address, SSH_PORT), (OUTSIDE, WEB_PORT), (address, 3128)):
        probe = [*here, python, "-c", f"import socket; socket.create_connection(({host!r}, {port}), 1)"]
        until(lambda probe=probe: subprocess.run(probe, capture_output=True).returncode == 0,
              f"{host}:{port}", 20, slurm.daemons.logs)  # fmt: skip


def _net(pid: int) -> int:
    try:
        return Path(f"/proc/{pid}/ns/net").stat().st_ino
    except OSError:
        return 0
