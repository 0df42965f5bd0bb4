"""The code server of root's and of an ordinary user's, and what hostile programs do to it: nothing.

Each way of keeping programs apart is tried, and what the weaker ones say that they do not keep is left out.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from runner.code_server.grading import Grader
from runner.code_server.requests import Request
from runner.code_server.wanted import CodeServer
from tests.live.parts_code_server import KEY, PYTHON, Server, serving
from tests.live.parts_hostile_programs import ATTACKING, DAEMON, FAILING, SPY
from tests.live.parts_users import User

pytestmark = [pytest.mark.live, pytest.mark.timeout(180)]
BOTH = ("root-namespaces", "user-namespaces", "user-landlock", "root-limits", "user-limits")


@pytest.fixture(scope="module", params=BOTH)
def server(
    request: pytest.FixtureRequest, ordinary_user: User, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    who, _, way = request.param.partition("-")
    user = ordinary_user if who == "user" else None
    home = user.folder / f"code server {way}" if user else tmp_path_factory.mktemp("code server")
    home.mkdir(exist_ok=True)
    with serving(way, user, home) as made:
        yield made


def test_it_answers_in_the_old_forms(server: Server) -> None:
    program = "import sys\nfor line in sys.stdin.read().splitlines():\n    print(int(line) + 1)"
    tests = [{"input": "1\n2\n", "output": "2\n3.0\n"}, {"input": "1\n", "output": "3\n"}]
    status, answer = server.ask("/test_program_stdio", program, tests)
    assert status == 200 and answer["results"] == [1, 0]
    assert answer["runtimes"][0] > 0 and answer["runtimes"][1] == -1.0
    status, answer = server.ask(
        "/test_program", "def f(x): return x", ["assert f(1) == 1", "assert f(1) == 2"]
    )
    assert status == 200 and answer["results"] == [1, 0] and answer["runtimes"][1] == -1.0


def test_programs_that_fail_are_zeros_and_do_no_harm(server: Server) -> None:
    """All of them at once, and right ones among them, which lose nothing by it."""
    right = {f"right {number}": "def add(a, b): return a + b" for number in range(4)}
    began = time.monotonic()
    asked = {**FAILING, **right}
    with ThreadPoolExecutor(8) as at_once:
        waiting = {
            what: at_once.submit(server.passes, program, seconds=1.0 if what in FAILING else 20.0)
            for what, program in asked.items()
        }
        found = {what: each.result() for what, each in waiting.items()}
    assert found == {**dict.fromkeys(FAILING, 0), **dict.fromkeys(right, 1)}
    assert time.monotonic() - began < 60
    server.unharmed()


FOUND = {"root-limits": "network", "user-limits": "key network signals"}


def test_programs_find_what_the_server_says_and_nothing_else(
    server: Server, request: pytest.FixtureRequest
) -> None:
    """Key, network and processes of others: of the strict ways none. What is open is told by /health."""
    spy = SPY.format(home=str(server.home), key=KEY, port=server.port, pid=server.child.pid)
    found = FOUND.get(request.node.callspec.params["server"], "")
    assert server.wrote(spy, found) == 1
    said = " ".join(server.ask("/health")[1]["missing"])
    words = {"key": "the key's too", "network": "the network is open", "signals": "can be signalled"}
    assert {word for word, telling in words.items() if telling in said} == set(found.split())
    server.unharmed()


def test_signals_reach_nothing_outside(server: Server) -> None:
    if server.user and server.way == "limits":
        assert any("can be signalled" in each for each in server.ask("/health")[1]["missing"])
        return
    with ThreadPoolExecutor(4) as at_once:
        found = dict(at_once.map(lambda what: (what, server.passes(ATTACKING[what], seconds=1.0)), ATTACKING))
    assert found == dict.fromkeys(ATTACKING, 0)
    server.unharmed()


def test_nothing_stays(server: Server) -> None:
    assert server.passes(DAEMON) == 0
    server.unharmed()


def test_roots_programs_are_another_users(server: Server) -> None:
    spy = "import os\nprint(os.getuid() == 0, os.access('/etc', os.W_OK), os.access('/usr', os.W_OK))"
    assert server.wrote(spy, "False False False") == 1


WITHOUT = 'echo 0 >/proc/sys/user/max_user_namespaces; exec setpriv --bounding-set=-all --inh-caps=-all "$@"'


def test_a_node_without_namespaces_is_said_to_be_one(tmp_path: Path) -> None:
    """As in a container whose engine forbids them: the next way is taken, and the log says why."""
    within = ("unshare", "--user", "--map-root-user", "/bin/sh", "-euc", WITHOUT, "sh")
    with serving("landlock", None, tmp_path, "best", within) as made:
        made.unharmed()
        assert made.passes(FAILING["it is a fork bomb"], seconds=1.0) == 0
        made.unharmed()
        log = (tmp_path / "log").read_text()
        assert "kept apart by landlock" in log
        assert "warning: not by namespaces, which this node refuses ([Errno 28] unshare:" in log


def test_a_file_that_is_replaced_meanwhile_is_no_fault() -> None:
    """As /etc/passwd is when somebody adds a user: here it is done all the time."""
    place, done = Path(tempfile.mkdtemp(prefix="sw-test-", dir="/var/tmp")), threading.Event()
    place.chmod(0o755)
    seen = place / "seen"
    seen.write_text("x")

    def replace() -> None:
        while not done.is_set():
            (place / "next").write_text("x")
            (place / "next").replace(seen)

    wanted = CodeServer(python=PYTHON, isolation="namespaces", see=(str(seen),))
    thread = threading.Thread(target=replace)
    try:
        thread.start()
        grader = Grader(wanted, {"PATH": "/usr/bin:/bin"}, [])
        asked = Request("x = 1", (f"assert open({str(seen)!r}).read() == 'x'",), None, 10.0)
        assert [grader.grade(asked).results for _ in range(10)] == [[1]] * 10
    finally:
        done.set()
        thread.join()
        shutil.rmtree(place)
