"""What a proof of a sandbox demands, and how its client takes an agent-server's answers."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kit.errors import HostError, UnsupportedError, VerifyError
from kit.nouns import Platform
from runner import client_folder, sandbox, sandbox_proof
from runner.agent_client import Agent, Ran
from runner.client_folder import Place
from runner.sandbox_proof import SEPARATOR, Asked

BASE = {"PATH": "/bin", "FROM": "it's here", "LANG": "C", "OH_SECRET_KEY": "x"}


def running(seen: dict[str, str], code: int = 0) -> Any:
    """A sandbox whose commands see these variables."""

    def command(text: str) -> Ran:
        names = [word.strip('"$') for word in text.split()[2:]]
        return Ran(code, "".join(seen.get(name, "") + SEPARATOR for name in names), "")

    return SimpleNamespace(agent=SimpleNamespace(command=command))


def test_the_base_s_environment_with_the_layer_at_the_end_of_its_path_is_right() -> None:
    seen = {"PATH": "/bin:/slipworks-agent/programs", "FROM": "it's here", "LANG": "C"}
    sandbox_proof._environment(running(seen), BASE)
    sandbox_proof._environment(
        running(seen | {"LD_LIBRARY_PATH": "/own"}), BASE | {"LD_LIBRARY_PATH": "/own"}
    )


@pytest.mark.parametrize(
    ("seen", "told"),
    [
        ({"PATH": "/slipworks-agent/programs:/bin"}, "PATH of a command begins otherwise"),
        ({"LANG": "C.UTF-8"}, "LANG of a command is 'C.UTF-8': the base has 'C'"),
        ({"FROM": ""}, "FROM of a command"),
        ({"LD_LIBRARY_PATH": "/slipworks-agent/lib"}, "LD_LIBRARY_PATH of a command"),
        ({"PYTHONPATH": "/slipworks-agent"}, "PYTHONPATH of a command"),
    ],
)
def test_what_the_layer_changes_for_a_command_is_told(seen: dict[str, str], told: str) -> None:
    whole = {"PATH": "/bin:/x", "FROM": "it's here", "LANG": "C", **seen}
    with pytest.raises(VerifyError, match=told):
        sandbox_proof._environment(running(whole), BASE)


def test_a_command_that_fails_is_told() -> None:
    with pytest.raises(VerifyError, match="ended with 127"):
        sandbox_proof._environment(running({}, code=127), BASE)


def test_images_for_another_machine_are_not_started() -> None:
    other = Platform("arm64" if Platform.host().arch == "amd64" else "amd64")
    with pytest.raises(UnsupportedError, match="cannot be started"):
        sandbox_proof.prove(["a"], Asked(engine=None, platform=other), lambda proof: None)  # type: ignore[arg-type]


class Odd:
    """An engine that fails for one image in a way that nobody foresaw."""

    def has(self, name: str) -> None:
        raise KeyError(name) if "odd" in name else VerifyError("it is not there", "pull it")


def test_what_nobody_foresaw_harms_one_proof() -> None:
    asked = Asked(engine=Odd(), platform=Platform.host())  # type: ignore[arg-type]
    odd, other = sandbox_proof.prove(["a.b/odd:1", "a.b/other:1"], asked, lambda proof: None)
    assert (odd.error_class, other.error) == ("ours", "it is not there")
    assert odd.error and odd.error.startswith("KeyError: ")


def test_a_sandbox_s_key_is_not_shown() -> None:
    place = sandbox.Sandbox(url="http://a", key="s3cret", agent=None, ready=1, child=None, log=Path())  # type: ignore[arg-type]
    assert "s3cret" not in f"{place} {place!r}"


FOLDER = Place(0o755, 0, 0, None)


def test_what_a_bake_did_to_the_client_paths_folder() -> None:
    assert client_folder.difference(None, FOLDER) is None
    assert client_folder.difference(FOLDER, FOLDER) is None
    told = client_folder.difference(Place(0o777, 0, 0, "../bin"), FOLDER)
    assert told == ("/usr/local/bin is a folder of 0:0 with mode 0755, and in the base a link to ../bin")
    assert "with mode 2775" in str(client_folder.difference(Place(0o2775, 0, 50, None), FOLDER))


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("exec: openhands-agent-server: not found", VerifyError),
        ("Error: netavark: iptables is not there", HostError),
    ],
)
def test_a_container_that_ends_is_told_by_its_log(tmp_path: Path, said: str, kind: type[Exception]) -> None:
    (tmp_path / "log").write_text(f"one\n{said}\n")
    failure = sandbox.failed("an/image", "ended with exit code 127", tmp_path / "log")
    assert type(failure) is kind and said in failure.message


@pytest.fixture
def server() -> Iterator[tuple[str, dict[str, tuple[int, bytes]]]]:
    """Answers by path; all else is 404."""
    answers: dict[str, tuple[int, bytes]] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, body = answers.get(self.path.partition("?")[0], (404, b"no such thing"))
            self.send_response(status if self.headers["X-Session-API-Key"] == "key" else 401)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{http.server_port}", answers
    http.shutdown()
    http.server_close()


START, SEARCH = "/api/bash/start_bash_command", "/api/bash/bash_events/search"


def test_a_commands_pieces_are_put_together(server: tuple[str, dict[str, tuple[int, bytes]]]) -> None:
    url, answers = server
    items = [
        {"stdout": "a", "order": 0}, {"stderr": "e", "order": 1}, {"stdout": "b", "exit_code": 3, "order": 2}
    ]  # fmt: skip
    answers[START] = 200, b'{"id": "1"}'
    answers[SEARCH] = 200, json.dumps({"items": items}).encode()
    with Agent(url, "key") as agent:
        assert agent.command("x") == Ran(3, "ab", "e")


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ((500, b"a traceback"), "with 500: a traceback"),
        ((200, b"<html>"), "with no JSON"),
        ((200, b"[]"), r"with \[\]"),
    ],
)
def test_an_answer_that_is_none_is_told(
    server: tuple[str, dict[str, tuple[int, bytes]]], answer: tuple[int, bytes], told: str
) -> None:
    url, answers = server
    answers[START] = answer
    with Agent(url, "key") as agent, pytest.raises(VerifyError, match=told):
        agent.command("x")


@pytest.fixture
def dripping() -> Iterator[str]:
    """The URL of a server that begins an answer and never ends it: a byte now and then."""
    over = threading.Event()

    def drip(client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            client.sendall(b"HTTP/1.1 200 OK\r\nX: ")
            while not over.wait(0.02):
                client.sendall(b"x")

    def answer() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=drip, args=(listening.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=answer, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        over.set()
        listening.shutdown(socket.SHUT_RDWR)


@pytest.mark.timeout(30)
def test_who_answers_without_end_holds_nobody(dripping: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.agent_client.QUICK", 0.3)
    with Agent(dripping, "key") as agent:
        began = time.monotonic()
        assert not agent.alive()
        with pytest.raises(VerifyError, match="does not answer"):
            agent.idle()
        assert 0.5 < time.monotonic() - began < 10


def test_a_command_has_an_end(server: tuple[str, dict[str, tuple[int, bytes]]]) -> None:
    url, answers = server
    answers[START], answers[SEARCH] = (200, b'{"id": "1"}'), (200, b'{"items": []}')
    with Agent(url, "key", timeout=0.3) as agent, pytest.raises(VerifyError, match="did not end"):
        agent.command("sleep 9")


def test_nobody_listens(server: tuple[str, dict[str, tuple[int, bytes]]]) -> None:
    with Agent("http://127.0.0.1:9", "key") as agent:
        assert not agent.alive()
        with pytest.raises(VerifyError, match="does not answer"):
            agent.download("/x")
    with Agent(server[0], "wrong") as agent, pytest.raises(VerifyError, match="401"):
        agent.download("/x")


def test_no_answer_of_a_sandbox_fills_our_memory(server: tuple[str, dict[str, tuple[int, bytes]]]) -> None:
    url, answers = server
    answers["/api/file/download"] = 200, b"x" * 1000
    with Agent(url, "key") as agent:
        assert agent.download("/x", most=1000) == b"x" * 1000
        with pytest.raises(VerifyError, match="with more than 999 bytes"):
            agent.download("/x", most=999)
