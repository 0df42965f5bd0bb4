"""A job whose training file rewards passed tests, on a real Slurm, in the cpu image, as an ordinary user."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from msgspec import json

from runner.code_server.grading import FORGED
from runner.code_server.wanted import VARIABLE
from tests.live.parts_code_server import left
from tests.live.parts_jobs import Login, Told, logs, said
from tests.live.parts_slurm import Slurm
from tests.live.parts_slurm_daemons import until
from tests.live.parts_users import User

pytestmark = [pytest.mark.live, pytest.mark.timeout(600)]
PROGRAM = """
import json, netrc, os, pathlib, time, urllib.error, urllib.request

def ask(path, data=None, **headers):
    request = urllib.request.Request(os.environ["CODE_API_URL"] + path, data, headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as refused:
        return refused.code, {}

def tried(program, test):
    import base64
    name, _, password = netrc.netrc(os.environ["NETRC"]).authenticators("127.0.0.1")
    state = os.stat(os.path.dirname(os.environ["NETRC"])), os.stat(os.environ["NETRC"])
    assert [each.st_mode & 0o777 for each in state] == [0o700, 0o600], state
    assert password == os.environ["SLIPWORKS_CODE_SERVER_KEY"]
    word = base64.b64encode(f"{name}:{password}".encode()).decode()
    data = json.dumps({"program": program, "tests": [test], "max_execution_time": 2.0}).encode()
    assert ask("/test_program", data)[0] == 401
    return ask("/test_program", data, Authorization="Basic " + word)[1]["results"]

spy = "import os; seen = [os.path.exists(p) for p in ('/slipworks-run', '/slipworks', '/checkpoints')]"
bomb = "import os\\nwhile True:\\n    try: os.fork()\\n    except OSError: pass"
judge = "http://" + os.environ["SLIPWORKS_SERVICE_JUDGE"] + ":8123/"
print("found:", json.dumps({
    "rank": os.environ["SLIPWORKS_RANK"], "health": ask("/health")[1],
    "right": tried("import numpy", "assert numpy.ones(3).sum() == 3"),
    "wrong": tried("x = 1", "assert x == 2"),
    "apart": tried(spy, "assert seen == [False] * 3"), "bomb": tried(bomb, "assert True"),
    "judge": urllib.request.urlopen(judge, timeout=20).status,
}), flush=True)
while not pathlib.Path("/slipworks-run/go").exists():
    time.sleep(0.05)
"""
HEALTH = {"status": "healthy", "isolation": "namespaces", "missing": [FORGED]}
JUDGE = "test -e again || { touch again; exit 3; }; exec python -m http.server 8123"
JOB = f"""
name: rewarded
arch: cpu
nodes: 2
ray: false
training: training.yaml
workdir: /slipworks-run
services:
  - {{name: judge, run: "{JUDGE}", nodes: one, ready: "port:8123", restart: 2}}
  - {{name: extra, run: "echo its last word; exit 5", nodes: head, optional: true}}
run: [python, -c, {json.encode(PROGRAM).decode()}]
"""


@pytest.fixture(scope="module")
def rewarded(hosts: Slurm, cached_sif: Path, ordinary_user: User) -> tuple[Login, Told]:
    """The job; its command has done its work on both nodes, and waits for `go`."""
    login = Login(hosts, ordinary_user, cached_sif)
    place = hosts.shared / "job's place"
    place.mkdir(exist_ok=True)
    (place / "training.yaml").write_text("lr: 1\ncode_pass_rate_reward_threshold: 0.99\n")
    told = login.submit(JOB)
    for rank in (0, 1):
        said(told.folder, f'found: {{"rank": "{rank}"', 240)
    return login, told


def test_both_nodes_have_a_server_and_the_one_service_is_found(rewarded: tuple[Login, Told]) -> None:
    _, told = rewarded
    assert "note: a code server on every node" in told.err
    for rank in (0, 1):
        log = told.folder.attempt(1).log(rank).read_text()
        (line,) = [each for each in log.splitlines() if each.startswith("found: ")]
        found = json.decode(line.removeprefix("found: "))
        assert found["health"] == HEALTH, logs(told.folder)
        assert (found["right"], found["wrong"], found["apart"], found["bomb"]) == ([1], [0], [1], [0])
        assert found["judge"] == 200
        server = told.folder.attempt(1).service_log("code-server", rank).read_text()
        assert "listening on 127.0.0.1:1234" in server and "kept apart by namespaces" in server
    until(lambda: not left(), "the end of what programs left", 10, lambda: str(left()))


def test_a_service_is_started_again_and_an_optional_one_gone_without(rewarded: tuple[Login, Told]) -> None:
    _, told = rewarded
    head, other = (told.folder.attempt(1).log(rank).read_text() for rank in (0, 1))
    assert "the service judge: ended with exit code 3; starting it again in 1 s (1 of 2)" in other
    assert "the service extra: warning: the job goes on without it" in head and "  its last word" in head


def test_the_key_is_in_files_of_its_owner_and_goes_with_the_job(rewarded: tuple[Login, Told]) -> None:
    login, told = rewarded
    root = told.folder.root
    secrets = json.decode(told.folder.secrets.read_bytes(), type=dict[str, str])
    key = secrets[VARIABLE].encode()
    holders = [each for each in root.rglob("*") if each.is_file() and key in each.read_bytes()]
    assert holders == [told.folder.secrets], "the netrc is each node's own"
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):  # it has ended meanwhile, or is no process
            assert key not in (entry / "cmdline").read_bytes()
    (root / "go").touch()
    assert login.ended(told) == "COMPLETED", logs(told.folder)
    assert not told.folder.secrets.exists()
    assert not any(key in each.read_bytes() for each in root.rglob("*") if each.is_file())
