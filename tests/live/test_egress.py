"""Nodes without internet, with a real gateway: real jobs as a user submits them, in the real cpu image."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.live import parts_gateway
from tests.live.parts_engines import User
from tests.live.parts_gateway import NAME, OUTSIDE, WEB_PORT, Gateway
from tests.live.parts_jobs import MAIN, PACKAGES, Login, hosts, interpreter, logs, said, user
from tests.live.parts_slurm import Slurm
from tests.live.parts_slurm_daemons import until

__all__ = ["hosts", "user"]  # fixtures

pytestmark = [pytest.mark.live, pytest.mark.timeout(600)]
WEB = f"http://{NAME}:{WEB_PORT}"
LIBRARY = "libBrokenLocale"  # of the C library, in place of an NCCL: nobody needs it, and none is called
FETCH = """
import json, os, pathlib, time, urllib.request
def fetch(address):
    return urllib.request.urlopen(address, timeout=20).read().decode().strip()
def until(file, seconds=60):
    end = time.monotonic() + seconds
    while not pathlib.Path(file).exists():
        assert time.monotonic() < end, file
        time.sleep(0.05)
"""


@pytest.fixture(scope="module")
def gateway(hosts: Slurm, ordinary_user: User) -> Gateway:
    return parts_gateway.opened(hosts, ordinary_user)


@pytest.fixture(scope="module", autouse=True)
def profiles(gateway: Gateway, user: Login, ordinary_user: User) -> Iterator[None]:
    """The user's own file: a gateway, one that refuses the key, and a proxy of the site's."""
    wrong = gateway.key.with_name("wrong key")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", wrong], check=True)
    proxy = {"kind": "http", "host": "gateway", "port": 3128, "probe": f"{WEB}/probe"}
    own: dict[str, Any] = {
        "generic": gateway.profile(), "refused": gateway.profile(key=str(wrong)), "proxied": proxy,
    }  # fmt: skip
    file = ordinary_user.folder / ".config/slipworks/config.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    lines: list[str] = []
    for name, way in own.items():
        lines += [
            f"[clusters.{name}.egress]",
            *(f"{key} = {json.dumps(value)}" for key, value in way.items()),
        ]
    file.write_text("\n".join(lines))
    for each in (wrong, file, file.parent, file.parent.parent):
        shutil.chown(each, ordinary_user.name)
    yield
    file.unlink()


@pytest.fixture(scope="module")
def equipment(hosts: Slurm, gateway: Gateway) -> Path:
    """This machine's ssh with its own loader and libraries, and proxychains', for an image without them."""
    folder = hosts.shared / "job's place/equipment"
    folder.mkdir(parents=True)
    listed = subprocess.run(["ldd", "/usr/bin/ssh"], capture_output=True, text=True, check=True).stdout
    for path in re.findall(r"(/\S+) \(0x", listed):
        shutil.copy(path, folder)
    shutil.copy("/usr/bin/ssh", folder / "ssh.real")
    loader = next(each.name for each in folder.iterdir() if each.name.startswith("ld-linux"))
    (folder / "ssh").write_text(
        f'#!/bin/sh\nexec /equipment/{loader} --library-path /equipment /equipment/ssh.real "$@"\n'
    )
    (folder / "ssh").chmod(0o755)
    (found,) = Path("/usr/lib").glob("*/libproxychains.so.4")
    shutil.copy(found, folder)
    return folder


def job(
    name: str, program: str, equipment: Path | None, more: str = "egress: true\n", ray: bool = False
) -> str:
    binds = ""
    if equipment:
        binds = (
            "binds: ['equipment:/equipment:ro', 'equipment/ssh:/usr/local/bin/ssh:ro', "
            "'equipment/libproxychains.so.4:/usr/local/lib/libproxychains.so.4:ro']\n"
        )
    run = json.dumps(["python", "-c", FETCH + program])
    return f"name: {name}\narch: cpu\nray: {'true' if ray else 'false'}\n{binds}{more}run: {run}\n"


MEETING = """
print("GOT", fetch(WEB + "/first-" + ME))
import http.client, socket
at = os.environ["DOCKER_HOST"].removeprefix("unix://")
assert os.stat(os.path.dirname(at)).st_mode & 0o777 == 0o700
docker = http.client.HTTPConnection("docker")
docker.sock = socket.socket(socket.AF_UNIX)
docker.sock.settimeout(20)
docker.sock.connect(at)
docker.request("GET", "/docker-" + ME)
print("DOCKER", docker.getresponse().read().decode().strip())
pathlib.Path(SHARED, ME).touch()
until(pathlib.Path(SHARED, OTHER))
conf = os.environ["PROXYCHAINS_CONF_FILE"]
print("CONF", conf, open(conf).read().split()[-1])
print("GOT", fetch(WEB + "/second-" + ME))
"""


def test_two_jobs_on_one_node_each_have_a_way_of_their_own(
    user: Login, gateway: Gateway, equipment: Path
) -> None:
    """And each a way to the Docker host beyond the gateway."""
    folder = user.slurm.shared / "both"
    folder.mkdir()
    folder.chmod(0o1777)
    told = []
    for me, other in (("a", "b"), ("b", "a")):
        names = f"ME, OTHER, WEB, SHARED = {me!r}, {other!r}, {WEB!r}, '/both'\n"
        docker = f"egress: {{docker: '{OUTSIDE}:{WEB_PORT}'}}\n"
        text = job(me, names + MEETING, equipment, docker + "sbatch: {nodelist: n1, cpus-per-task: '2'}\n")
        told.append(user.submit(text.replace("binds: [", "binds: ['../both:/both', ")))
    ports = set()
    for me, each in zip("ab", told, strict=True):
        state = user.ended(each)
        heard = logs(each.folder)
        assert state == "COMPLETED", heard
        assert heard.count("GOT from outside") == 2 and "DOCKER from outside" in heard, heard
        ports.add(re.findall(r"^CONF /slipworks-run/attempt-1/egress-0.conf (\d+)$", heard, re.MULTILINE)[0])
        assert f"/first-{me} {OUTSIDE}" in gateway.asked(), "the gateway asked, from its own address"
        assert not re.search(r"PRIVATE KEY", heard)
    assert len(ports) == 2
    user.slurm.quiet()
    until(lambda: not gateway.sessions(), "the gateway to be left alone", 20)


KILLED = """
print("GOT", fetch(WEB + "/before"), flush=True)
until("/slipworks-run/go")
print("GOT", fetch(WEB + "/after"), flush=True)
"""


def test_a_tunnel_that_is_killed_is_opened_again(user: Login, gateway: Gateway, equipment: Path) -> None:
    told = user.submit(job("killed", f"WEB = {WEB!r}\n" + KILLED, equipment))
    said(told.folder, "GOT from outside")
    sessions = gateway.sessions()
    assert sessions
    for each in sessions:
        os.kill(each, 9)
    said(told.folder, "the way out is open again", 30)
    (told.folder.root / "go").touch()
    state = user.ended(told)
    heard = logs(told.folder)
    assert state == "COMPLETED" and heard.count("GOT from outside") == 2, heard
    assert "the way out dropped" in heard
    user.slurm.quiet()


BOTH = """
import ray, socket
def has(pid, name): return name in pathlib.Path(f"/proc/{pid}/maps").read_text()
def libraries(pid): return [has(pid, "libBrokenLocale"), has(pid, "libproxychains")]
ray.init(log_to_driver=False)
@ray.remote(num_cpus=1)
def look(head, port):
    with socket.create_connection((head, port), timeout=20):
        pass
    name = pathlib.Path(f"/proc/{os.getppid()}/comm").read_text().strip()
    seen = libraries("self"), name, libraries(os.getppid())
    return ray.util.get_node_ip_address(), *seen, fetch(WEB + "/worker")
mine = ray.util.get_node_ip_address()
other = next(each for each in ray.nodes() if each["NodeManagerAddress"] != mine)
listening = socket.create_server(("0.0.0.0", 0))
there = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(other["NodeID"], soft=False)
asked = look.options(scheduling_strategy=there).remote(mine, listening.getsockname()[1])
peer = listening.accept()[1][0]
address, worker, name, raylet, got = ray.get(asked)
print("SEEN", json.dumps({"driver": libraries("self"), "worker": worker, name: raylet, "got": got,
                          "direct": peer == address, "far": address != mine}))
"""


def test_proxychains_and_a_preloaded_nccl_are_in_one_process_and_ray_stays_direct(
    user: Login, gateway: Gateway, equipment: Path
) -> None:
    """In the command and in Ray's workers, on another node too; in Ray's own daemons neither is. What a
    worker sends to another node goes there by itself."""
    (library,) = Path("/usr/lib").glob(f"*/{LIBRARY}.so.1")
    more = f"nodes: 2\nenv: {{VLLM_NCCL_SO_PATH: {library}}}\negress: {{workers: true}}\n"
    text = job(
        "both",
        "import ray.util.scheduling_strategies\n" + f"WEB = {WEB!r}\n" + BOTH,
        equipment,
        more,
        ray=True,
    )
    told = user.submit(text)
    state = user.ended(told)
    heard = logs(told.folder)
    assert state == "COMPLETED", heard
    seen = json.loads(re.findall(r"^SEEN (.*)$", heard, re.MULTILINE)[0])
    assert seen == {
        "driver": [True, True], "worker": [True, True], "raylet": [False, False], "got": "from outside",
        "direct": True, "far": True,
    }  # fmt: skip
    user.slurm.quiet()


def test_a_proxy_of_the_site(user: Login, gateway: Gateway, equipment: Path) -> None:
    program = f"print('GOT', fetch({WEB!r} + '/proxied'))"
    told = user.submit(job("proxied", program, equipment), SLIPWORKS_CLUSTER="proxied")
    state = user.ended(told)
    assert state == "COMPLETED" and "GOT from outside" in logs(told.folder), logs(told.folder)
    assert f"CONNECTED {OUTSIDE}:{WEB_PORT}" in (user.slurm.folder / "log/proxy").read_text()


def test_without_egress_nothing_gets_out(user: Login, gateway: Gateway) -> None:
    told = user.submit(job("none", f"fetch('http://{OUTSIDE}:{WEB_PORT}/none')", None, more=""))
    assert user.ended(told) == "FAILED"
    assert "Network is unreachable" in logs(told.folder), logs(told.folder)
    assert not [each for each in gateway.asked() if each.startswith("/none")]


@pytest.mark.parametrize(
    ("cluster", "equipped", "wrong"),
    [
        ("generic", False, "the image has no `proxychains4`, by which the job's egress leaves the node"),
        ("refused", True, "Permission denied (publickey"),
    ],
)
def test_no_way_out_ends_the_job_before_its_command(
    user: Login, gateway: Gateway, equipment: Path, cluster: str, equipped: bool, wrong: str
) -> None:
    text = job("shut", "print('STARTED')", equipment if equipped else None, "egress: true\nrestarts: 1\n")
    told = user.submit(text, SLIPWORKS_CLUSTER=cluster)
    assert user.ended(told) == "FAILED"
    heard = logs(told.folder)
    assert user.code(told) == "50:0" and wrong in heard and "STARTED" not in heard, heard
    assert "Traceback" not in heard and "it is not tried again" in heard, heard


def test_doctor_tries_it_from_a_node(user: Login, gateway: Gateway, ordinary_user: User) -> None:
    env = user.settings | {
        "HOME": str(ordinary_user.folder),
        "PYTHONPATH": os.pathsep.join(map(str, PACKAGES)),
    }
    for cluster, code, heard in (("generic", 0, "gets through"), ("refused", 30, "Permission denied")):
        argv = [interpreter(ordinary_user), "-c", MAIN, "doctor", "--egress", "--cluster", cluster]
        done = user.slurm.run("srun", "--quiet", "--nodelist=n2", *argv, user=user.name, env=env, check=False)
        assert done.returncode == code, done.stdout + done.stderr
        assert heard in done.stdout + done.stderr, done.stdout + done.stderr
    # What it asked podman leaves a process of podman's own; ssh has ended.
    assert not [each for each in user.slurm.processes("n2") if "ssh" in each]
