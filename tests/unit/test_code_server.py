"""The code server apart from its cages: requests, what is compared, the key, its answers over HTTP."""

from __future__ import annotations

import base64
import os
import pickle
import stat
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request as Asked
from urllib.request import urlopen

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import json

from kit.errors import InvalidFileError, LaunchError, MissingToolError
from runner import cli
from runner.code_server import keys, requests
from runner.code_server.comparing import same
from runner.code_server.grading import Answer, Crowded, Fault, Grader
from runner.code_server.requests import Refused, Request
from runner.code_server.server import Server
from runner.code_server.wanted import CodeServer, wrong

PAIRS = [{"input": "1\n", "output": "2\n"}, {"input": ["3", "4"], "output": 5}]


def body(**more: Any) -> bytes:
    return json.encode({"program": "p", "tests": ["t"], "max_execution_time": 2.5, **more})


def test_a_request_in_the_old_form() -> None:
    assert requests.read(body(), stdio=False) == Request("p", ("t",), None, 2.5)
    assert requests.read(b'{"program": "p", "tests": []}', stdio=False).seconds == 1.0
    read = requests.read(body(tests=PAIRS), stdio=True)
    assert read.tests == ("1\n", "3\n4") and read.outputs == ("2\n", "5")


@pytest.mark.parametrize("inner", [PAIRS, json.encode(PAIRS).decode(), json.encode(PAIRS)])
def test_tests_as_data_sets_pack_them(inner: Any) -> None:
    packed = base64.b64encode(zlib.compress(pickle.dumps(inner))).decode()
    assert requests.decoded(packed) == PAIRS
    assert requests.decoded(json.encode(PAIRS).decode()) == PAIRS
    assert requests.decoded("") == [] == requests.decoded(None)


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"no json", 400), (b"\xff", 400), (b"[" * 100_000, 400), (b"[]", 422), (b'{"tests": []}', 422),
        (b'{"program": "p"}', 422), (body(program=1), 422), (body(tests=[1]), 422),
        (body(tests={"a": 1}), 422),
        (body(max_execution_time=0), 422), (body(max_execution_time=-1), 422),
        (body(max_execution_time="1"), 422), (body(max_execution_time=True), 422),
        (body(tests="neither"), 422), (b'{"program": "p", "tests": [], "max_execution_time": NaN}', 422),
    ],
)  # fmt: skip
def test_what_is_no_request(raw: bytes, status: int) -> None:
    with pytest.raises(Refused) as refused:
        requests.read(raw, stdio=False)
    assert refused.value.status == status


@pytest.mark.parametrize("tests", [["t"], [{"input": "1"}], [{"output": "1"}], [["1", "2"]]])
def test_tests_without_input_or_output(tests: Any) -> None:
    with pytest.raises(Refused, match="input, output"):
        requests.read(body(tests=tests), stdio=True)


class Evil:
    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return (os.mkdir, (os.environ["EVIL"],))


def test_a_pickle_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVIL", str(tmp_path / "made"))
    with pytest.raises(Refused, match="plain data alone"):
        requests.decoded(base64.b64encode(zlib.compress(pickle.dumps([Evil()]))).decode())
    assert not (tmp_path / "made").exists()


def test_what_unpacks_to_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "LARGEST", 1000)
    with pytest.raises(Refused) as refused:
        requests.decoded(base64.b64encode(zlib.compress(pickle.dumps(["x" * 5000]))).decode())
    assert refused.value.status == 413


@given(st.binary(max_size=60))
def test_any_bytes_are_refused_or_read(raw: bytes) -> None:
    for text in (raw.decode("latin-1"), base64.b64encode(zlib.compress(raw)).decode()):
        try:
            assert isinstance(requests.decoded(text), list)
        except Refused as refused:
            assert refused.status in (413, 422)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ("1\n2\n", "1\n2"),
        (" 1 \n 2", "1\n2"),
        ("1.0 2", "1 2.000"),
        ("", "\n"),
        ("YES\n", "YES"),
        ("1e3", "1000"),
    ],
)
def test_outputs_that_are_the_same(found: str, expected: str) -> None:
    assert same(found, expected)


@pytest.mark.parametrize(
    ("found", "expected"),
    [("1 2", "1\n2"), ("1", "2"), ("yes", "YES"), ("1 x", "1 y"), ("1", "1\n1"), ("nan", "NaN"), ("١", "1"),
     ("0.30000000000000004", "0.3")],
)  # fmt: skip
def test_outputs_that_differ(found: str, expected: str) -> None:
    assert not same(found, expected)


@given(st.text(max_size=50), st.text(max_size=50))
def test_any_texts_are_compared(one: str, other: str) -> None:
    assert same(one, one)
    assert same(one, other) == same(other, one)


def test_the_key_is_its_owners_alone(tmp_path: Path) -> None:
    file = tmp_path / "a folder/key"
    key = keys.ensured(file)
    assert len(key) == 64 and keys.ensured(file) == key
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.chmod(0o640)
    with pytest.raises(InvalidFileError, match="others can read"):
        keys.ensured(file)
    file.chmod(0o600)
    file.write_text("\n")
    with pytest.raises(InvalidFileError, match="found no key"):
        keys.ensured(file)


def test_the_netrc_has_the_users_own_behind_it(tmp_path: Path) -> None:
    import netrc

    (tmp_path / "own").write_text("machine api.example.org login u password p\n")
    keys.write_netrc(tmp_path / "made", "[::1]", "k", tmp_path / "own")
    read = netrc.netrc(str(tmp_path / "made"))
    for name in ("127.0.0.1", "localhost", "::1"):
        assert read.authenticators(name) == ("slipworks", "", "k")
    assert read.authenticators("api.example.org") == ("u", "", "p")
    assert stat.S_IMODE((tmp_path / "made").stat().st_mode) == 0o600
    keys.write_netrc(tmp_path / "made", "10.0.0.5", "k", tmp_path / "none")
    assert list(netrc.netrc(str(tmp_path / "made")).hosts) == ["10.0.0.5"]


def basic(words: str) -> str:
    return "Basic " + base64.b64encode(words.encode()).decode()


@pytest.mark.parametrize(
    ("header", "authorization", "opens"),
    [
        ("k", None, True), (None, "Bearer k", True), (None, "bearer k", True), (None, basic("any:k"), True),
        (None, None, False), ("", "", False), ("K", None, False), (None, "Bearer", False), (None, "k", False),
        (None, basic("k"), False), (None, "Basic !", False), (None, basic("k:"), False),
        ("wrong", "Bearer k", False),
        (None, "Basic " + base64.b64encode(b"\xff").decode(), False),
    ],
)  # fmt: skip
def test_who_has_the_key(header: str | None, authorization: str | None, opens: bool) -> None:
    assert keys.opens("k", header, authorization) == opens


@pytest.mark.parametrize(
    "bad",
    [
        {"port": 0}, {"port": 65536}, {"workers": 0}, {"memory": 1}, {"disk": 0}, {"processes": 0},
        {"at_least": -1.0}, {"at_most": 0.0}, {"at_least": 5.0, "at_most": 2.0}, {"listen": ""},
        {"python": ""}, {"see": ("relative",)}, {"see": ("/",)}, {"at_most": float("nan")},
    ],
)  # fmt: skip
def test_settings_that_are_wrong(bad: dict[str, Any]) -> None:
    assert [why for _, why in wrong(CodeServer(**bad)) if why]
    assert not [why for _, why in wrong(CodeServer()) if why]


def test_the_command_line_says_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--set", "{"], ["--set", '{"prt": 1}'], ["--port", "0"]):
        assert cli.main(["code-server", *words]) == 2
        assert "hint: runner code-server --help" in capsys.readouterr().err


def test_without_the_python_there_is_no_server() -> None:
    with pytest.raises(MissingToolError, match="no `no-such-python`"):
        Grader(CodeServer(python="no-such-python"), {"PATH": "/usr/bin:/bin"}, [])
    with pytest.raises(LaunchError, match="ask /bin/false where it is"):
        Grader(CodeServer(python="/bin/false"), {"PATH": "/usr/bin:/bin"}, [])


def test_a_way_that_the_node_refuses_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """`best` goes on to the next and keeps why; a way by name is that or nothing."""
    tried = []

    def told(self: Grader, request: Request, way: str) -> list[Any]:
        tried.append(way)
        if way == "namespaces":
            raise Fault("unshare: not permitted")
        return [SimpleNamespace(passed=1)]

    monkeypatch.setattr(Grader, "_told", told)
    env = {"PATH": os.environ["PATH"]}
    found = Grader(CodeServer(python=sys.executable), env, [])
    assert (found.way, found.refusals) == ("landlock", {"namespaces": "unshare: not permitted"})
    with pytest.raises(LaunchError, match=r"isolation=namespaces says .namespaces: unshare: not permitted"):
        Grader(CodeServer(python=sys.executable, isolation="namespaces"), env, [])
    assert tried == ["namespaces", "landlock", "landlock", "namespaces"], "then who programs are is asked"


def test_a_crowd_of_others_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their processes are no fault of this program, and none of the server's if they stay."""
    left: list[Crowded | None] = [None, None, Crowded("full"), Crowded("full")]  # two at its making

    def told(self: Grader, request: Request, way: str) -> list[Any]:
        if broken := left.pop(0) if left else None:
            raise broken
        return [SimpleNamespace(passed=1, seconds=0.5)]

    asked = Request("p", ("t",), None, 1.0)
    monkeypatch.setattr(Grader, "_told", told)
    grader = Grader(CodeServer(python=sys.executable, isolation="limits"), {"PATH": os.environ["PATH"]}, [])
    assert grader.grade(asked) == Answer([1], [0.5]) and not left
    left += [Crowded("full")] * 20
    with pytest.raises(Fault, match="full"):
        grader.grade(asked)


class Stub:
    """In place of a Grader: answers as it is told, and remembers."""

    def __init__(self) -> None:
        self.wanted = CodeServer(port=None, at_least=2.0, at_most=9.0)
        self.way = "namespaces"
        self.answer: Answer | Exception = Answer([1], [0.5])
        self.asked: list[Request] = []
        self.most = self.now = 0
        self.lock = threading.Lock()
        self.go = threading.Event()
        self.go.set()

    def missing(self) -> list[str]:
        return ["nothing"]

    def grade(self, request: Request) -> Answer:
        with self.lock:
            self.asked.append(request)
            self.now += 1
            self.most = max(self.most, self.now)
        self.go.wait(20)
        with self.lock:
            self.now -= 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Stub, str]]:
    stub = Stub()
    monkeypatch.setattr("runner.code_server.server.PORT", 0)
    with Server(stub, "k", 2) as server:  # type: ignore[arg-type]
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield stub, f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def ask(url: str, data: bytes | None = None, key: str = "k", **more: str) -> tuple[int, dict[str, Any]]:
    try:
        with urlopen(Asked(url, data, {"X-API-Key": key, **more}), timeout=20) as answer:
            return answer.status, json.decode(answer.read())
    except HTTPError as refused:
        return refused.code, json.decode(refused.read())


def test_questions_and_answers(served: tuple[Stub, str]) -> None:
    stub, url = served
    health = {"status": "healthy", "isolation": "namespaces", "missing": ["nothing"]}
    assert ask(f"{url}/health", key="") == (200, health)
    assert ask(f"{url}/test_program", body()) == (200, {"results": [1], "runtimes": [0.5]})
    assert ask(f"{url}/test_program_stdio", body(tests=PAIRS))[0] == 200
    assert [each.outputs for each in stub.asked] == [None, ("2\n", "5")]


@pytest.mark.parametrize(("asked", "given_"), [(0.5, 2.0), (2.5, 2.5), (100, 9.0)])
def test_seconds_are_kept_within_the_settings(served: tuple[Stub, str], asked: float, given_: float) -> None:
    stub, url = served
    ask(f"{url}/test_program", body(max_execution_time=asked))
    assert stub.asked[0].seconds == given_


def test_what_is_refused_is_a_status_and_never_a_zero(served: tuple[Stub, str]) -> None:
    stub, url = served
    assert ask(f"{url}/test_program", body(), key="wrong")[0] == 401
    assert ask(f"{url}/test_program", body(), key="", Authorization="Bearer k")[0] == 200
    assert ask(f"{url}/test_program", b"no json")[0] == 400
    assert ask(f"{url}/test_program", body(tests=[1]))[0] == 422
    assert ask(f"{url}/elsewhere", body())[0] == 404
    assert ask(f"{url}/elsewhere")[0] == 404
    assert ask(f"{url}/test_program")[0] == 405
    assert ask(f"{url}/test_program", body(), **{"Content-Length": str(1 << 40)})[0] == 413
    assert len(stub.asked) == 1


@pytest.mark.parametrize("broken", [Fault("no cage"), ZeroDivisionError("x")])
def test_its_own_faults_are_errors(
    served: tuple[Stub, str], broken: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    stub, url = served
    stub.answer = broken
    status, answer = ask(f"{url}/test_program", body())
    assert status == 500 and "the code server failed" in answer["detail"]
    assert ("no cage" if isinstance(broken, Fault) else "ZeroDivisionError") in capsys.readouterr().err


def test_workers_bound_what_runs_and_the_others_wait(
    served: tuple[Stub, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stub, url = served
    stub.go.clear()
    answers: list[int] = []
    threads = [
        threading.Thread(target=lambda: answers.append(ask(f"{url}/test_program", body())[0]))
        for _ in range(8)
    ]
    for each in threads:
        each.start()
    while stub.now < 2:
        pass
    assert ask(f"{url}/health")[0] == 200, "it answers while all workers are busy"
    stub.go.set()
    for each in threads:
        each.join(20)
    assert answers == [200] * 8 and stub.most == 2


def test_a_port_that_is_taken_is_named(served: tuple[Stub, str], monkeypatch: pytest.MonkeyPatch) -> None:
    stub, url = served
    monkeypatch.setattr("runner.code_server.server.PORT", int(url.rpartition(":")[2]))
    with pytest.raises(LaunchError, match=r"cannot listen on 127\.0\.0\.1 port"):
        Server(stub, None, 1)  # type: ignore[arg-type]
