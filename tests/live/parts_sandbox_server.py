"""The sandbox server as a process, for tests: begun as its users begin it, asked over HTTP, killed and begun
again."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

from runner import agent_layer, images
from tests.live.needs import need
from tests.live.parts_code_server import BECOME
from tests.live.parts_jobs import MAIN, PACKAGES, interpreter
from tests.live.parts_roots import NATIVE
from tests.live.parts_slurm_daemons import until
from tests.live.parts_users import User

PATIENCE = 120.0
_http = build_opener(ProxyHandler({}))


class Answer:
    """What a request came to."""

    def __init__(self, status: int, headers: Message, raw: bytes) -> None:
        self.status, self.headers, self.raw = status, headers, raw

    @property
    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.raw)
        return found

    @property
    def good(self) -> dict[str, Any]:
        assert self.status == 200, (self.status, self.raw[:2000])
        return self.json


def asked(
    method: str,
    url: str,
    body: object = None,
    headers: Mapping[str, str] | None = None,
    timeout: float = 60.0,
) -> Answer:
    """A request with a body in JSON, by no proxy."""
    raw = None if body is None else json.dumps(body).encode()
    sent = {"Content-Type": "application/json", **(headers or {})}
    try:
        with _http.open(Request(url, raw, sent, method=method), timeout=timeout) as answer:
            return Answer(answer.status, answer.headers, answer.read())
    except HTTPError as refused:
        return Answer(refused.code, refused.headers, refused.read())


class Server:
    """A server of `state`, this process's own or `user`'s. settings: runner.sandboxes.settings, by name."""

    def __init__(self, state: Path, user: User | None = None, **settings: object) -> None:
        self.state, self.user, self.settings = state, user, settings
        self.log = state.parent / f"{state.name}.log"
        self.url = self.key = ""
        self._child: subprocess.Popen[str] | None = None

    @property
    def pid(self) -> int:
        assert self._child
        return self._child.pid

    def begin(self) -> None:
        """Returns once it answers."""
        argv = ["-c", MAIN, "sandbox", "serve", "--state", str(self.state), *self._words()]
        env = dict(os.environ)
        if self.user:
            entry = pwd.getpwnam(self.user.name)
            home, ids = str(self.user.folder), [str(entry.pw_uid), str(entry.pw_gid)]
            argv = [sys.executable, "-c", BECOME, *ids, interpreter(self.user), *argv]
            env = {"PATH": os.environ["PATH"], "HOME": home, "TMPDIR": home, "USER": self.user.name,
                   "PYTHONPATH": os.pathsep.join(map(str, PACKAGES))}  # fmt: skip
        else:
            argv = [sys.executable, *argv]
        with self.log.open("a") as log:
            self._child = subprocess.Popen(
                argv, env=env, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
                text=True, start_new_session=True,
            )  # fmt: skip
        assert self._child.stdout
        self.url = self._child.stdout.readline().strip()
        assert self.url.startswith("http://"), self.said()
        self.key = (self.state / "key").read_text().strip()

    def _words(self) -> list[str]:
        return [f"--{name}={each}" for name, value in self.settings.items()
                for each in (value if isinstance(value, list) else [value])]  # fmt: skip

    def said(self) -> str:
        return self.log.read_text()[-5000:]

    def ask(self, method: str, path: str, body: object = None, timeout: float = 60.0) -> Answer:
        return asked(method, f"{self.url}{path}", body, {"X-API-Key": self.key}, timeout)

    def start(self, session: str, image: str, **more: object) -> dict[str, Any]:
        """As the SDK asks for one."""
        return self.ask("POST", "/start", wish(session, image, **more)).good

    def ready(self, session: str, seconds: float = PATIENCE) -> dict[str, Any]:
        """Once its server said that it is alive."""
        held: dict[str, Any] = {}

        def alive() -> bool:
            held.update(self.ask("GET", f"/sessions/{session}").good)
            assert held["pod_status"] not in ("failed", "unknown", "crashloopbackoff"), (held, self.said())
            return bool(held["pod_status"] == "ready")

        until(alive, f"{session} to be ready", seconds, lambda: f"{held} {self.said()}")
        return held

    def stop(self, runtime: str) -> None:
        assert self.ask("POST", "/stop", {"runtime_id": runtime}).good

    def kill(self) -> None:
        """As the kernel does where memory is short."""
        assert self._child
        self._child.kill()
        self._child.communicate()

    def end(self) -> int:
        """TERM; its exit code. Its sandboxes are gone."""
        assert self._child
        self._child.send_signal(signal.SIGTERM)
        try:
            self._child.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"goes on {PATIENCE:g} s after TERM: {self.said()}") from None
        return self._child.returncode


def wish(session: str, image: str, **more: object) -> dict[str, Any]:
    """A body for /start: the SDK's."""
    return {
        "image": image, "command": "/usr/local/bin/openhands-agent-server --port 60000", "working_dir": "/",
        "environment": {}, "session_id": session, "run_as_user": 10001, "fs_group": 10001,
        "image_pull_policy": "IfNotPresent", "runtime_class": "sysbox-runc", **more,
    }  # fmt: skip


@contextlib.contextmanager
def serving(state: Path, user: User | None = None, **settings: object) -> Iterator[Server]:
    """One while the block lasts."""
    server = Server(state, user, **settings)
    server.begin()
    try:
        yield server
    finally:
        code = server.end()
    assert code == 0, server.said()


@contextlib.contextmanager
def serving_apptainer(user: User, name: str, layer: bool = False, **settings: object) -> Iterator[Server]:
    """An ordinary user's, as on a cluster. layer: with the agent's layer, for bases that have none."""
    need(shutil.which("apptainer"), "apptainer is not installed")
    home = user.folder / name
    home.mkdir()
    shutil.chown(home, user.name)
    if layer:
        settings["layer"] = home / "layer.sqfs"
        shutil.copyfile(agent_layer.squashfs(NATIVE, images.store()), home / "layer.sqfs")
        (home / "layer.sqfs").chmod(0o644)
    with serving(home / "state", user, engine="apptainer", **settings) as made:
        yield made


def told(url: str, path: str, seconds: float = PATIENCE) -> str:
    """What a stand-in's BEGIN said, once it has ended."""
    found: list[str] = []

    def there() -> bool:
        with contextlib.suppress(OSError, http.client.HTTPException):
            answer = asked("GET", f"{url}/{path}", timeout=5.0)
            if answer.status == 200:
                found.append(answer.raw.decode(errors="replace"))
        return bool(found)

    until(there, f"{url}/{path}", seconds)
    return found[0]


def containers() -> list[str]:
    """Of these tests' podman."""
    told = subprocess.run(["podman", "ps", "--all", "--quiet"], check=True, capture_output=True, text=True)
    return told.stdout.split()


def gone(url: str) -> bool:
    """Whether nobody listens there any more."""
    try:
        asked("GET", f"{url}/alive", timeout=5.0)
    except OSError:
        return True
    except http.client.HTTPException:  # it ended in the middle of its answer
        pass
    return False
