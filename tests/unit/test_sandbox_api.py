"""The sandbox server's HTTP side: both clients' wire forms, the key, failures; schemathesis finds nothing."""

from __future__ import annotations

import stat
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, settings
from msgspec import structs

from kit.errors import AuthError, InvalidFileError, NetworkError, QuotaError, UsageError
from runner import cli
from runner.commands.sandbox import serve
from runner.sandboxes import auth
from runner.sandboxes.api import Served, app, unlocked
from runner.sandboxes.desk import Desk
from runner.sandboxes.nouns import Session, Wish
from runner.sandboxes.settings import Settings
from tests.unit.parts_desk import Engine, made, until

KEY = "0123456789abcdef" * 4
SDK: dict[str, Any] = {
    "image": "ghcr.io/x/y:z", "command": "/usr/local/bin/openhands-agent-server --port 60000",
    "working_dir": "/", "environment": {"A": "b"}, "session_id": "agent-server-1",
    "run_as_user": 10001, "fs_group": 10001, "image_pull_policy": "IfNotPresent",
    "runtime_class": "sysbox-runc", "resource_factor": 2,
}  # fmt: skip
"""The SDK's body, as its 1.58.0 sends it."""


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def desk(tmp_path: Path, engine: Engine) -> Iterator[Desk]:
    found = made(tmp_path, engine)
    found.recover()
    yield found
    found.close()


@pytest.fixture
def client(desk: Desk) -> Iterator[TestClient]:
    served = Served(host=desk, prefix="reg.example/x", engine="none", limits={"pids": "cgroup"})
    with TestClient(app(served, KEY), headers={"X-API-Key": KEY}, raise_server_exceptions=False) as made:
        yield made


def start(client: TestClient, **more: Any) -> httpx.Response:
    return client.post("/start", json={**SDK, **more})


def wish(desk: Desk) -> Wish:
    """Of the one sandbox that there is."""
    (found,) = desk.sessions()
    return found.wish


def becomes(client: TestClient, path: str, pod: str) -> dict[str, Any]:
    """As clients ask, until it is so."""
    until(lambda: client.get(path).json()["pod_status"] == pod, f"{path} to be {pod}")
    found: dict[str, Any] = client.get(path).json()
    return found


def test_the_sdk_gets_all_that_it_reads(client: TestClient, desk: Desk) -> None:
    assert client.get("/sessions/agent-server-1").status_code == 404
    begun = start(client).json()
    assert begun["runtime_id"] and begun["url"].startswith("http://") and begun["session_api_key"]
    asked = wish(desk)
    assert asked.command == ("/usr/local/bin/openhands-agent-server", "--port", "60000")
    assert (asked.env, asked.workdir, asked.user, asked.factor) == ({"A": "b"}, "/", 10001, 2)
    seen = becomes(client, "/sessions/agent-server-1", "ready")
    assert seen["status"] == "running"
    assert {seen[each] == begun[each] for each in ("runtime_id", "url", "session_api_key")} == {True}
    which = {"runtime_id": begun["runtime_id"]}
    assert client.post("/pause", json=which).status_code == 200
    assert client.get("/sessions/agent-server-1").json()["status"] == "paused"
    assert client.post("/resume", json=which).json()["status"] == "running"
    assert client.post("/stop", json=which).json()["status"] == "stopped"
    assert client.post("/stop", json=which).status_code == 200
    ended = client.get("/sessions/agent-server-1").json()
    assert (ended["status"], ended["pod_status"]) == ("stopped", "failed")  # who waits must not wait on


def test_the_older_client_gets_all_that_it_reads(client: TestClient, desk: Desk) -> None:
    assert client.get("/registry_prefix").json() == {"registry_prefix": "reg.example/x"}
    found = client.get("/image_exists", params={"image": SDK["image"]}).json()
    assert found["exists"] is True
    assert found["image"] == {"upload_time": "2026-01-01T00:00:00Z", "image_size_bytes": 5}
    assert client.get("/image_exists", params={"image": "no:1"}).json()["exists"] is False
    words = ["python", "-u", "-m", "a server", "--port", "60000"]
    body = {"image": SDK["image"], "command": words, "working_dir": "/openhands/code/", "session_id": "s",
            "environment": {}}  # fmt: skip
    begun = client.post("/start", json=body).json()
    assert wish(desk).command == tuple(words)
    seen = becomes(client, f"/runtime/{begun['runtime_id']}", "ready")
    assert seen["runtime_id"] == begun["runtime_id"]
    assert (seen["restart_count"], seen["work_hosts"]) == (0, {})
    listed = client.get("/list").json()
    assert listed["total"] == 1 and listed["runtimes"][0]["runtime_id"] == begun["runtime_id"]
    assert client.get("/runtime/0000").status_code == 404


def test_a_session_is_begun_once(client: TestClient, desk: Desk) -> None:
    first = start(client).json()
    again = start(client).json()
    assert [again[each] == first[each] for each in ("runtime_id", "url", "session_api_key")] == [True] * 3
    other = start(client, image="other:1")
    assert other.status_code == 409 and other.json()["error"] == "conflict"
    assert len(desk.sessions()) == 1
    assert client.post("/start", json={"image": SDK["image"]}).json()["session_id"].startswith("sandbox-")


@pytest.mark.parametrize(("more", "says"), [
    ({"working_dir": "/etc:/../nosuch"}, "body.working_dir: Value error, expected an absolute path"),
    ({"environment": {"HOME": "/etc:/x"}}, "HOME: expected an absolute path"),
    ({"environment": {"PEM": "hid\nden"}}, "PEM: a line break"),
])  # fmt: skip
def test_what_no_engine_is_told_is_refused_with_a_word(
    client: TestClient, desk: Desk, more: dict[str, Any], says: str
) -> None:
    answer = start(client, **more)
    assert answer.status_code == 422 and answer.json()["error"] == "invalid"
    assert says in answer.json()["detail"] and "hid" not in answer.text
    assert not desk.sessions()


def test_a_failed_one_tells_why_and_its_log(client: TestClient) -> None:
    id = start(client, image="no:1").json()["runtime_id"]
    for path in ("/sessions/agent-server-1", f"/runtime/{id}"):
        seen = becomes(client, path, "failed")
        assert (seen["status"], seen["why"]) == ("failed", "there is no image no:1")
        assert seen["pod_logs"].startswith("there is no image no:1")


def test_a_log_may_hold_what_is_no_unicode(
    client: TestClient, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk, "logs", lambda id, lines: "a line\nno Unicode: \udcff")
    start(client, image="no:1")
    seen = becomes(client, "/sessions/agent-server-1", "failed")
    assert seen["pod_logs"].splitlines()[1:] == ["a line", "no Unicode: \udcff"]


@pytest.mark.parametrize(
    "headers",
    [{}, {"X-API-Key": "x"}, {"X-API-Key": ""}, {"Authorization": "Bearer x"}, {"X-Session-API-Key": KEY},
     {"X-API-Key": KEY.upper()}, {"X-API-Key": "é"}],
)  # fmt: skip
def test_without_the_key_nothing_is_answered(desk: Desk, headers: dict[str, str]) -> None:
    client = TestClient(app(Served(host=desk), KEY))
    sent = {name: value.encode() for name, value in headers.items()}
    for method, path in (("GET", "/list"), ("POST", "/start"), ("GET", "/openapi.json"), ("GET", "/no"),
                         ("POST", "/health/"), ("GET", "//health")):  # fmt: skip
        answer = client.request(method, path, headers=sent, json=SDK)
        assert answer.status_code == 401
        assert "X-API-Key" in answer.json()["detail"] and KEY not in answer.text
        assert answer.headers["www-authenticate"] == "Bearer"
    assert client.get("/health").status_code == 200
    assert not desk.sessions()


def test_the_key_may_be_a_bearers(desk: Desk) -> None:
    client = TestClient(app(Served(host=desk), KEY), headers={"Authorization": f"Bearer {KEY}"})
    assert client.get("/list").json()["total"] == 0


def test_a_full_server_says_when_to_come_again(client: TestClient) -> None:
    for number in range(3):
        assert start(client, session_id=f"s{number}").status_code == 200
    full = start(client, session_id="s3")
    assert full.status_code == 429 and int(full.headers["retry-after"]) >= 1
    assert full.json()["error"] == "busy"


def test_a_server_that_cannot_says_so(client: TestClient, engine: Engine) -> None:
    id = start(client).json()["runtime_id"]
    engine.pauses = "apptainer has no freezer here"
    refused = client.post("/pause", json={"runtime_id": id})
    assert refused.status_code == 501
    assert refused.json() == {"error": "unsupported", "detail": "apptainer has no freezer here"}
    assert start(client, session_id="b", resource_factor=8).status_code == 501


@pytest.mark.parametrize(
    ("wrong", "where"),
    [
        ({"image": "-v/:/host"}, "body.image"),
        ({"image": "a\nb"}, "body.image"),
        ({"session_id": "../key"}, "body.session_id"),
        ({"session_id": ""}, "body.session_id"),
        ({"environment": {"A=B": "c"}}, "body.environment"),
        ({"environment": {"A": "c\0"}}, "body.environment"),
        ({"environment": {"A": 1}}, "body.environment"),
        ({"command": "sh -c 'open"}, "command"),
        ({"command": ["a\0"]}, "body.command"),
        ({"resource_factor": 3}, "body.resource_factor"),
        ({"run_as_user": -1}, "body.run_as_user"),
        ({"image_pull_policy": "Sometimes"}, "body.image_pull_policy"),
    ],
)
def test_what_is_not_understood_is_told_without_its_value(
    client: TestClient, desk: Desk, wrong: dict[str, Any], where: str
) -> None:
    refused = start(client, **wrong)
    assert refused.status_code == 422, refused.text
    assert refused.json()["detail"].startswith(where)
    assert "../key" not in refused.text
    assert not desk.sessions()


@pytest.mark.parametrize(
    ("failure", "status", "again"),
    [(NetworkError("no answer"), 502, None), (AuthError("who?"), 502, None), (QuotaError("often"), 503, "5"),
     (InvalidFileError("no name"), 422, None), (ValueError("a bug"), 500, None)],
)  # fmt: skip
def test_an_image_of_which_nothing_is_known_is_not_missing(
    client: TestClient, desk: Desk, failure: Exception, status: int, again: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def fails(image: str) -> None:
        raise failure

    monkeypatch.setattr(desk, "exists", fails)
    answer = client.get("/image_exists", params={"image": "a:b"})
    assert (answer.status_code, answer.headers.get("retry-after")) == (status, again)
    assert set(answer.json()) == {"error", "detail"}
    assert "a bug" not in answer.text


def test_calls_that_wait_keep_none_from_an_answer(
    client: TestClient, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More stops at once than the pool of quick answers has threads."""
    waiting, go = threading.Semaphore(0), threading.Event()
    start(client)

    def stop(id: str) -> Session:
        waiting.release()
        go.wait(30)
        return desk.sessions()[0]

    monkeypatch.setattr(desk, "stop", stop)
    with ThreadPoolExecutor(50) as pool:
        stops = [pool.submit(client.post, "/stop", json={"runtime_id": "x"}) for _ in range(50)]
        for _ in stops:
            assert waiting.acquire(timeout=30)
        try:
            assert client.get("/sessions/agent-server-1").status_code == 200
            assert not any(each.done() for each in stops)
        finally:
            go.set()
        assert {each.result().status_code for each in stops} == {200}


def test_the_key_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    key = auth.ensured(tmp_path)
    path = tmp_path / auth.FILE
    assert len(key) == 64 and path.read_text() == key == auth.ensured(path.parent)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o640)
    with pytest.raises(InvalidFileError, match="the sandbox server's key"):
        auth.ensured(path.parent)


def test_the_openapi_tells_of_the_key_and_of_every_failure(desk: Desk) -> None:
    told = unlocked(Served(host=desk)).openapi()
    assert set(told["components"]["securitySchemes"]) == {"key", "bearer"}
    paths = told["paths"]
    assert {"/health", "/start", "/stop", "/pause", "/resume", "/sessions/{session_id}", "/list",
            "/runtime/{runtime_id}", "/registry_prefix", "/image_exists"} == set(paths)  # fmt: skip
    for path, methods in paths.items():
        for told_of in methods.values():
            assert ("401" in told_of["responses"]) == ("security" in told_of) == (path != "/health")
    assert set(paths["/start"]["post"]["responses"]) == {
        "200", "400", "401", "404", "409", "422", "429", "501", "502", "503"
    }  # fmt: skip


def test_serve_has_an_option_for_each_setting() -> None:
    assert set(serve.OPTIONS) == {each.name for each in structs.fields(Settings)}
    assert cli.parsed(["sandbox", "serve", "--bake-to=a/b"]).bake_to == "a/b"


@pytest.mark.parametrize("words", [["--cpus=many"], ["--set={"], ['--set={"cups": 1}'], ["--network=none"]])
def test_a_wrong_option_is_told(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["sandbox", "serve", "--state", str(tmp_path / "s"), *words]) == UsageError.code
    assert "a wrong option" in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


now = [app(Served(host=None), KEY)]  # type: ignore[arg-type]


async def the_app(scope: Any, receive: Any, send: Any) -> None:
    """Of the desk that there is by then: tests are made before any is."""
    await now[-1](scope, receive, send)


@pytest.fixture(scope="module")
def its_desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    found = made(tmp_path_factory.mktemp("state"), slots=16)
    found.recover()
    now.append(app(Served(host=found), KEY))
    yield
    found.close()


schema = schemathesis.openapi.from_asgi("/openapi.json", the_app, headers={"X-API-Key": KEY})


@pytest.mark.usefixtures("its_desk")
@schema.parametrize()
@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_schemathesis_finds_nothing(case: schemathesis.Case) -> None:
    case.call_and_validate(headers={"X-API-Key": KEY})
