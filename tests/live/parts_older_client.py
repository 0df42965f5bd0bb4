"""What OpenHands' older `RemoteRuntime` asks of a runtime API, request by request and field by field, and how
it reads the answers."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from tests.live.parts_sandbox_server import asked


class NotReadyError(Exception):
    """As its AgentRuntimeNotReadyError: it asks again."""


class OlderClient:
    """Its methods have the names that they have there."""

    def __init__(self, url: str, key: str, session: str, image: str) -> None:
        self.api, self.sid, self.image = url, session, image
        self.headers = {"X-API-Key": key}
        self.runtime_id = self.runtime_url = self.prefix = ""

    def send(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        answer = asked(method, f"{self.api}{path}", body, headers=self.headers)
        assert answer.status == 200, (method, path, answer.status, answer.raw)
        return answer.json

    def check_existing_runtime(self) -> bool:
        answer = asked("GET", f"{self.api}/sessions/{self.sid}", headers=self.headers)
        if answer.status == 404:
            return False
        status = answer.good["status"]
        if status == "running":
            self.parse(answer.json)
            return True
        if status == "paused":
            self.parse(answer.json)
            self.send("POST", "/resume", {"runtime_id": self.runtime_id})
            self.wait_until_alive()
            return True
        return False

    def build_runtime(self) -> None:
        """With an image that was made before: only whether it is there is asked."""
        self.prefix = self.send("GET", "/registry_prefix")["registry_prefix"].rstrip("/")
        found = self.send("GET", f"/image_exists?image={self.image}")
        if not found["exists"]:
            raise FileNotFoundError(f"Container image {self.image} does not exist")
        assert found["image"]["upload_time"] and found["image"]["image_size_bytes"] > 0

    def start_runtime(self, command: list[str], factor: int = 1, **environment: str) -> None:
        self.parse(self.send("POST", "/start", {
            "image": self.image, "command": command, "working_dir": "/openhands/code/",
            "environment": environment, "session_id": self.sid, "resource_factor": factor,
            "runtime_class": "sysbox-runc",
        }))  # fmt: skip

    def parse(self, found: Mapping[str, Any]) -> None:
        self.runtime_id, self.runtime_url = found["runtime_id"], found["url"]
        assert isinstance(found.get("work_hosts", {}), dict)
        if "session_api_key" in found:
            self.headers["X-Session-API-Key"] = found["session_api_key"]

    def wait_until_alive(self, seconds: float = 120.0) -> None:
        end = time.monotonic() + seconds
        while True:
            try:
                return self.wait_until_alive_impl()
            except NotReadyError:
                assert time.monotonic() < end
                time.sleep(0.2)

    def wait_until_alive_impl(self) -> None:
        data = self.send("GET", f"/runtime/{self.runtime_id}")
        assert data["runtime_id"] == self.runtime_id
        status = data["pod_status"].lower()
        assert data.get("restart_count", 0) == 0
        if status == "ready":
            try:
                assert asked("GET", f"{self.runtime_url}/alive", headers=self.headers).status == 200
            except OSError as no:
                raise NotReadyError from no
            return
        if status in ("not found", "pending", "running"):
            raise NotReadyError(status)
        raise AssertionError(f"runtime {status}: {data}")

    def close(self) -> None:
        self.send("POST", "/stop", {"runtime_id": self.runtime_id})
