"""The sandbox server and its real clients: the SDK's own workspace, unpatched, under each engine, and the
requests of the older client."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runner.agent_client import Agent
from runner.agent_layer import AgentLayer
from tests.live.parts_bases import Zoo, put
from tests.live.parts_older_client import OlderClient
from tests.live.parts_sandbox_server import Server, asked, containers, gone, serving, serving_apptainer, told
from tests.live.parts_sdk import Sdk, SdkError
from tests.live.parts_slurm_daemons import until
from tests.live.parts_users import User

pytestmark = [pytest.mark.live, pytest.mark.timeout(300)]
PREFIX = "registry.example/bases/"


@pytest.fixture(scope="module")
def podman(private_storage: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Tells who comes when all is taken to come again."""
    state = tmp_path_factory.mktemp("it's a server") / "state"
    with serving(state, engine="podman", slots=4, cpus=1, memory=1024, prefix=PREFIX) as made:
        yield made
    assert containers() == []


@pytest.fixture(scope="module")
def apptainer(agent: AgentLayer, ordinary_user: User) -> Iterator[Server]:
    assert agent.gzip.path.is_file()
    with serving_apptainer(ordinary_user, "clients", layer=True, slots=4, cpus=1, memory=1024) as made:
        yield made


# The SDK's client

OPEN = """
kept["box"] = APIRemoteWorkspace(
    runtime_api_url=url, runtime_api_key=key, server_image=image, session_id=session)
answer = kept["box"].host
"""
USE = """
ran = kept["box"].execute_command("echo $FROM_BASE; pwd; exit 3", cwd="/tmp")
with open("own", "wb") as file:
    file.write(bytes(range(256)) * 999)
up = kept["box"].file_upload("own", "/tmp/there/a file")
down = kept["box"].file_download("/tmp/there/a file", "back")
same = open("own", "rb").read() == open("back", "rb").read()
answer = [ran.exit_code, ran.stdout, up.success, down.success, same]
"""
PAUSE = """
import httpx
kept["box"].pause()
try:
    httpx.get(kept["box"].host + "/alive", timeout=1.0, trust_env=False)
    answer = "answers"
except httpx.TimeoutException:
    answer = "is silent"
kept["box"].resume()
answer = [answer, kept["box"].execute_command("cat '/tmp/there/a file' | wc -c").stdout.strip()]
"""
ATTACH = """
with APIRemoteWorkspace(runtime_api_url=url, runtime_api_key=key, server_image=image, session_id=session,
                        keep_alive=True) as other:
    answer = [other.host == kept["box"].host, other.execute_command("ls /tmp/there").stdout.strip()]
"""


def story(sdk: Sdk, server: Server, image: str, session: str) -> None:
    """All that the SDK does with a sandbox; each step works."""
    given = {"url": server.url, "key": server.key, "image": image, "session": session}
    host = sdk(OPEN, **given)
    assert host.startswith("http://") and host != server.url
    assert sdk(USE) == [3, "it's here\n/tmp\n", True, True, True]
    key = server.ask("GET", f"/sessions/{session}").good["session_api_key"]
    with Agent(host, key) as agent:  # by what it says the server knows that it is busy
        idle = agent.idle()
    assert idle is not None and 0 <= idle < 60
    assert sdk(PAUSE) == ["is silent", str(256 * 999)]
    assert sdk(ATTACH, **given) == [True, "a file"]
    # Left paused, it goes on where the next client attaches.
    assert sdk("kept['box'].pause()") is None
    assert server.ask("GET", f"/sessions/{session}").good["status"] == "paused"
    assert sdk(ATTACH, **given) == [True, "a file"]
    sdk("kept['box'].cleanup()")
    assert server.ask("GET", f"/sessions/{session}").good["status"] == "stopped"
    until(lambda: gone(host), f"the end of {host}", 30)
    assert server.ask("GET", "/list").good["total"] == 0


def test_the_sdks_workspace_under_podman(sdk: Sdk, podman: Server, zoo: Zoo, registry_host: str) -> None:
    """On a base that nothing was baked on."""
    story(sdk, podman, put(zoo("busybox"), registry_host, "zoo/busybox"), "agent-server-podman")


def test_the_sdks_workspace_under_apptainer(
    sdk: Sdk, apptainer: Server, zoo: Zoo, registry_host: str
) -> None:
    """Of an ordinary user; the SIF is made when it is asked for."""
    story(sdk, apptainer, put(zoo("busybox"), registry_host, "zoo/busybox"), "agent-server-apptainer")


def test_the_sdk_is_told_what_is_wrong(sdk: Sdk, podman: Server, registry_host: str) -> None:
    """At once, and not after the time that it would wait."""
    assert sdk("answer = 1") == 1  # it has been imported
    began = time.monotonic()
    given = {"url": podman.url, "image": f"{registry_host}/nobody/made-this:1", "session": "missing"}
    with pytest.raises(SdkError, match=r"Runtime failed.*\n.*nobody/made-this"):
        sdk(OPEN, key=podman.key, **given)
    with pytest.raises(SdkError, match="401"):
        sdk(OPEN, key="another", **given)
    assert time.monotonic() - began < 30
    refused = asked("GET", f"{podman.url}/list", headers={"X-API-Key": "another"})
    assert refused.status == 401 and "X-API-Key" in refused.json["detail"]


def test_one_that_ends_at_once_says_so(podman: Server, standin: str) -> None:
    """No client waits for what will not come."""
    podman.start("ends", standin, command=["/bin/sh", "-c", "echo I cannot; exit 7"])
    found: dict[str, Any] = {}

    def failed() -> bool:
        found.update(podman.ask("GET", "/sessions/ends").good)
        return bool(found["pod_status"] == "failed")

    until(failed, "its end to be told", 30, podman.said)
    assert "exit code 7" in found["why"] and "I cannot" in found["pod_logs"], found


# The older client


def test_the_older_clients_requests(podman: Server, standin: str) -> None:
    client = OlderClient(podman.url, podman.key, "older", standin)
    assert not client.check_existing_runtime()
    client.build_runtime()
    assert client.prefix == PREFIX.rstrip("/")
    client.start_runtime(
        ["/openhands/micromamba/bin/micromamba", "run", "-n", "openhands", "poetry", "run", "python", "-u",
         "-m", "openhands.runtime.action_execution_server", "60000", "--working-dir", "/workspace",
         "--plugins", "agent_skills", "--username", "openhands", "--user-id", "1000"],
        BEGIN="echo $DEBUG; pwd", DEBUG="true",
    )  # fmt: skip
    client.wait_until_alive()
    assert client.headers["X-Session-API-Key"]
    assert told(client.runtime_url, "told").split()[0] == "true"
    assert told(client.runtime_url, "has_key") == "yes\n"
    again = OlderClient(podman.url, podman.key, "older", standin)
    assert again.check_existing_runtime() and again.runtime_id == client.runtime_id
    assert {"runtime_id": client.runtime_id} in [
        {"runtime_id": each["runtime_id"]} for each in client.send("GET", "/list")["runtimes"]
    ]
    client.close()
    assert not again.check_existing_runtime()


def test_an_image_that_is_not_there_is_said_to_be_none(podman: Server, registry_host: str) -> None:
    client = OlderClient(podman.url, podman.key, "older", f"{registry_host}/nobody/made-this:1")
    with pytest.raises(FileNotFoundError):
        client.build_runtime()
