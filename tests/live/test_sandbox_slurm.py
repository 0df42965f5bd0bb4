"""Sandboxes inside a job of Slurm: a stand-in for the training on one partition, its sandboxes on nodes of
the other, by the real batch script, the real server on the bare host, and a real apptainer."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.live.needs import need
from tests.live.parts_engines import User
from tests.live.parts_faulty import Damaging
from tests.live.parts_jobs import Login, Told, Traces, logs, mounted_agent, said, traces
from tests.live.parts_slurm import Slurm, Starter
from tests.live.parts_slurm_conf import Shape

pytestmark = [pytest.mark.live, pytest.mark.timeout(600)]
CPUS = ("c1", "c2")


@pytest.fixture(scope="module")
def cluster(slurm_like: Starter) -> Slurm:
    """A node with GPUs and two without, each a host of its own; nothing leads from them to a registry. Jobs
    have as long to end as Slurm gives them where a site says nothing."""
    return slurm_like(
        Shape(count=1, prefix="g", partitions=("gpu",)),
        Shape(count=2, prefix="c", partitions=("cpu",), gres=None),
        addresses=True,
        extra=("KillWait=30",),
    )


@pytest.fixture(scope="module")
def login(cluster: Slurm, cached_sif: Path, ordinary_user: User) -> Login:
    mounted_agent(cached_sif, ordinary_user)
    return Login(cluster, ordinary_user, cached_sif, SLIPWORKS_CLUSTER="generic")


@pytest.fixture(scope="module")
def agent(login: Login, standin: str) -> str:
    """An image that is a SIF of the user's store: its reference leads nowhere from a node."""
    listed = login.slurm.shared / "images.txt"
    listed.write_text(f"{standin}\n")
    told = login.type("prebuild", "sif", str(listed))
    assert told.code == 0, told.err
    return standin


SPY = "; ".join(
    [
        "env; cat /proc/*/environ /proc/*/cmdline | tr '\\0' '\\n'",
        'ls -laR /root /home /run /tmp /slipworks-run "$RUNS"',
        'cat /tmp/slipworks-*/key "$RUNS"/*/attempt-*/sandboxes/key',
        'for it in /proc/[0-9]*/root; do cat $it/tmp/slipworks-*/key "$it$RUNS"/*/attempt-*/*/key; done',
        "find / -path /proc -prune -o -path /sys -prune -o -type f -size -64k -print >/tmp/files",
        "grep -v ^/tmp/ /tmp/files | xargs cat",
        "wget -T 5 -q -O - $SERVER/list",
        "echo THE END",
    ]
)
"""Of a sandbox that looks for its server's key: wherever on these nodes it is, which have one /tmp."""
TRAINING = """
import json, os, time, urllib.error, urllib.request

url, key = os.environ["SLIPWORKS_SANDBOX_URL"], os.environ["SLIPWORKS_SANDBOX_KEY"]
image, name, code = os.environ["IMAGE"], os.environ["NAME"], int(os.environ["CODE"])

def ask(path, body=None, key=key, url=url):
    headers = {"X-API-Key": key, "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url + path, data, headers), timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as refused:
        return refused.code, refused.read().decode()

def wish(session):
    command = "/usr/local/bin/openhands-agent-server --port 60000"
    spies = {"BEGIN": os.environ["SPY"], "RUNS": os.environ["RUNS"], "SERVER": url}
    return {"image": image, "command": command, "working_dir": "/", "environment": spies,
            "session_id": session, "run_as_user": 10001, "resource_factor": 1}

found = {"health": ask("/health")[0], "wrong": ask("/list", key="x"), "at": []}

def begun(name):
    ask("/start", wish(name))
    until = time.monotonic() + 100
    while time.monotonic() < until:
        session = ask("/sessions/" + name)[1]
        if session["pod_status"] in ("ready", "failed"):
            break
        time.sleep(0.1)
    assert session["pod_status"] == "ready", session
    assert ask("/alive", url=session["url"])[0] == 200
    found["at"].append(session["url"])
    return session

session = [begun(name + str(number)) for number in range(int(os.environ["BOXES"]))][0]
urls, keys = ("SANDBOX_REMOTE_RUNTIME_API_URL", "RUNTIME_API_URL"), ("ALLHANDS_API_KEY", "RUNTIME_API_KEY")
found["pairs"] = [[os.environ[each] == url for each in urls], [os.environ[each] == key for each in keys]]
found["no_proxy"] = os.environ["no_proxy"]
found["url"] = url
until, telling = time.monotonic() + 100, ""
while "THE END" not in telling and time.monotonic() < until:
    try:  # it is there once all is said
        telling = urllib.request.urlopen(session["url"] + "/told", timeout=60).read().decode(errors="replace")
    except urllib.error.HTTPError as missing:
        time.sleep(0.2)
found["spied"] = "THE END" in telling and "OH_SESSION_API_KEYS_0=" + session["session_api_key"] in telling
found["secret"] = key in telling
found["gpus"] = os.environ["CUDA_VISIBLE_DEVICES"]
print("found:", json.dumps(found), flush=True)
while not os.path.exists("/slipworks-run/go"):
    time.sleep(0.2)
raise SystemExit(code)
"""
JOB = """
name: {name}
arch: cpu
ray: false
gpus: 1
time: 10
sbatch: {{mem: 3G}}
sandboxes:
  cpus: 2
  memory: 1500M
  nodes: {nodes}
  partition: cpu
  engine: {engine}
  server: {{cpus: 1, memory: 1024, slots: 1{more}}}
env: {env}
binds: ["{place}:/training:ro"]
run: [python3, /training/training.py]
"""


def begun(
    login: Login, image: str, name: str, nodes: int = 1, engine: str = "apptainer", more: str = "", **env: str
) -> Told:
    """A job whose training asks each of its nodes for a sandbox, and goes on until it is ended."""
    place = login.slurm.shared / "training"
    place.mkdir(exist_ok=True)
    (place / "training.py").write_text(TRAINING)
    words = {"name": name, "nodes": nodes, "engine": engine, "more": more}
    told = {"IMAGE": image, "NAME": name, "CODE": "7", "BOXES": str(nodes), "SPY": SPY}
    told["RUNS"] = str(login.runs)
    return login.submit(JOB.format(env=json.dumps(told), place=place, **words), **env)


def found(told: Told, seconds: float = 120) -> dict[str, Any]:
    """What the training said."""
    said(told.folder, "found:", seconds)
    line = next(line for line in logs(told.folder).splitlines() if line.startswith("found:"))
    made: dict[str, Any] = json.loads(line.removeprefix("found:"))
    return made


def clean(cluster: Slurm, before: dict[str, Traces]) -> None:
    """Nothing is left on any node: no process, mount, socket, temporary file."""
    cluster.quiet(60)
    left = {name: traces(cluster, name).since(before[name]) for name in cluster.nodes}
    assert not any(left.values()), left


def test_training_gets_its_sandboxes_from_the_other_partition(login: Login, agent: str) -> None:
    """Each of these jobs ends in its own way, and takes all with it: by itself, cancelled, at its limit, and
    with its server."""
    cluster = login.slurm
    before = {name: traces(cluster, name) for name in cluster.nodes}
    jobs = {
        name: begun(login, agent, name, nodes)
        for name, nodes in (("limited", 1), ("ends", 2), ("cancelled", 1), ("served", 1))
    }
    assert cluster.daemons.net
    addresses = [cluster.daemons.net.addresses[name] for name in CPUS]
    for name, told in jobs.items():
        got = found(told)
        assert got["health"] == 200 and got["gpus"] in ("0", "1", "2", "3"), got
        assert got["wrong"][0] == 401 and "X-API-Key" in got["wrong"][1], got
        assert got["pairs"] == [[True, True], [True, True]]
        assert got["spied"] and got["secret"] is False
        hosts = [str(urlsplit(each).hostname) for each in [got["url"], *got["at"]]]
        assert set(hosts) <= {*addresses} & {*got["no_proxy"].split(",")}, got
        assert len({*hosts[1:]}) == (2 if name == "ends" else 1), "on each node a slot was free"
        assert told.folder.script.read_text().count("#SBATCH hetjob") == 1, name
        keys = [each.read_text() for each in Path("/tmp").glob(f"slipworks-{told.jobs[0]}*/key")]
        assert key_of(told) in keys, "where it was looked for"
        assert key_of(told) not in logs(told.folder) + told.folder.script.read_text()
    cluster.run("scontrol", "update", f"JobId={jobs['limited'].jobs[0]}", "EndTime=now+1")
    (jobs["ends"].folder.root / "go").touch()
    assert login.ended(jobs["ends"]) == "FAILED" and login.code(jobs["ends"]) == "7:0"
    rows = [row["name"] for row in json.loads(login.type("status", "--json").out)]
    assert sorted(rows) == sorted(jobs), "a job of two parts is one"
    served = login.type("logs", "served", "--service", "sandboxes")
    assert "its server is at http://" in served.out, served
    assert login.type("cancel", str(jobs["cancelled"].folder.root.name)).code == 0
    kill_server(jobs["served"])
    states = {name: login.ended(told) for name, told in jobs.items()}
    assert states == {"limited": "TIMEOUT", "ends": "FAILED", "cancelled": "CANCELLED", "served": "FAILED"}
    assert "has lost a sandbox server, which ended with exit code 137" in logs(jobs["served"].folder)
    for told in jobs.values():
        assert not (told.folder.attempt(1).folder / "sandboxes/key").exists()
    clean(cluster, before)


def key_of(told: Told) -> str:
    """Of a job that runs."""
    file = told.folder.attempt(1).folder / "sandboxes/key"
    assert file.stat().st_mode & 0o777 == 0o600
    return file.read_text()


def kill_server(told: Told) -> None:
    """As the kernel does where memory is short. Of the host nothing was loaded by it: no Python, no libc."""
    attempt = told.folder.attempt(1).folder.name
    run = told.folder.root.name
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (place / "cmdline").read_bytes().split(b"\0")
            about = (place / "environ").read_bytes()
            if (
                b"serve" in words
                and words[0].rpartition(b"/")[2].startswith(b"ld-linux")
                and (f"SLURM_JOB_ID={told.jobs[0]}\0".encode() in about)
            ):
                lines = (place / "maps").read_text().splitlines()
                loaded = {path for line in lines if ".so" in (path := line.split(None, 5)[-1])}
                assert [path for path in loaded if "/layers/slipworks-" not in path] == []
                assert any("/libpython" in path or "/libc.so" in path for path in loaded)
                os.kill(int(place.name), signal.SIGKILL)
                return
    raise AssertionError(f"no server of {run} {attempt} runs")


def test_a_podman_without_root_serves_them_from_storage_of_the_jobs_own(
    login: Login, standin: str, registry_host: str
) -> None:
    """On one node: a rootless podman's own process is known by a file in /tmp, which these nodes share."""
    need(shutil.which("podman"), "podman is not installed")
    cluster = login.slurm
    before = {name: traces(cluster, name) for name in cluster.nodes}
    assert cluster.daemons.net
    proxy = Damaging(registry_host, {}, set(), address=cluster.daemons.net.gateway)
    insecure = cluster.shared / "registries.conf"
    insecure.write_text(f'[[registry]]\nlocation = "{proxy.host}"\ninsecure = true\n')
    image = standin.replace(registry_host, proxy.host)
    try:
        told = begun(
            login, image, "podman", engine="podman", more=", layer: /never/mounted",
            CONTAINERS_REGISTRIES_CONF=str(insecure),
        )  # fmt: skip
        got = found(told)
    finally:
        proxy.close()
    assert got["spied"] and got["secret"] is False and len(got["at"]) == 1, got
    assert list(Path("/tmp").glob(f"slipworks-podman-{told.jobs[0]}-*")), "beside no other job's"
    (told.folder.root / "go").touch()
    assert login.ended(told) == "FAILED" and login.code(told) == "7:0", logs(told.folder)
    clean(cluster, before)
