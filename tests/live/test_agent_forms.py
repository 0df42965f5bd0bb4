"""The agent's layer in each of its forms starts an agent-server: baked, as a squashfs, as a volume; and the
OpenHands SDK's own client works with it."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from containers import host
from containers.engine import ContainerRun, Engine
from containers.engines.apptainer import Apptainer
from kit import process
from kit.nouns import digest_file
from runner import agent_layer, images, layer_mounts, sandbox
from runner.agent_client import Agent
from runner.agent_layer import AgentLayer
from runner.sandbox import Sandbox, Start
from tests.live.needs import need
from tests.live.parts_bases import Zoo, put
from tests.live.parts_engines import User
from tests.live.parts_registry import free_port
from tests.live.parts_roots import NATIVE
from tests.live.parts_sandboxes import Bake

pytestmark = pytest.mark.live
SERVER = "/slipworks-agent/bin/openhands-agent-server"
KEY = "not-a-secret"
DEADLINE = 180.0


@pytest.fixture
def podman(chain: Engine) -> Engine:
    return chain


def had(podman: Engine, reference: str) -> str:
    process.run(podman.pull_argv(reference, NATIVE, insecure=True), what=f"pull {reference}")
    return reference


def test_both_packings_are_of_one_tar(agent: AgentLayer) -> None:
    assert agent.gzip.diff_id == agent.zstd.diff_id
    for form in (agent.gzip, agent.zstd, agent.tiny):
        assert digest_file(form.path) == form.digest and form.path.stat().st_size == form.size
    assert agent.zstd.size < agent.gzip.size
    assert agent_layer.find(NATIVE, images.store()) == agent


def test_to_find_it_takes_milliseconds(agent: AgentLayer) -> None:
    began = time.monotonic()
    assert agent_layer.find(NATIVE, images.store()) is not None
    assert time.monotonic() - began < 0.5


@pytest.mark.parametrize("entrypoint", ["kept", "cleared"])
def test_the_sdks_literal_command_starts_it_under_plain_podman(
    entrypoint: str, baked: Bake, podman: Engine, tmp_path: Path
) -> None:
    """podman's own words and nothing of the kit's, but for what this machine asks of every podman."""
    reference, name = had(podman, baked("entrypoint")), f"slipworks-test-literal-{os.getpid()}"
    (tmp_path / "env").write_text(f"OH_SESSION_API_KEYS_0={KEY}\n")
    here = host.facts()
    argv = ["podman", *host.podman_flags(here), "run", "--rm", "--detach", f"--name={name}",
            *host.ulimit_flags(here), "--publish=127.0.0.1::60000", f"--env-file={tmp_path / 'env'}",
            *(["--entrypoint="] if entrypoint == "cleared" else []), reference,
            "/usr/local/bin/openhands-agent-server", "--port", "60000"]  # fmt: skip
    subprocess.run(argv, check=True, capture_output=True)
    try:
        told = subprocess.run(
            ["podman", "port", name, "60000/tcp"], check=True, capture_output=True, text=True
        )
        assert answered(f"http://{told.stdout.strip()}/alive") == {"status": "ok"}
        with pytest.raises(urllib.error.HTTPError, match="401"):
            answered(f"http://{told.stdout.strip()}/api/bash/bash_events/search")
    finally:
        subprocess.run(podman.remove_argv([name]), capture_output=True, check=False)


def answered(url: str) -> object:
    end = time.monotonic() + DEADLINE
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return json.load(answer)
        except urllib.error.HTTPError:
            raise
        except OSError:
            assert time.monotonic() < end, f"{url} never answers"
            time.sleep(0.1)


def test_a_squashfs_is_mounted_by_apptainer_of_an_ordinary_user(
    agent: AgentLayer, zoo: Zoo, ordinary_user: User
) -> None:
    need(shutil.which("apptainer"), "apptainer is not installed")
    folder = ordinary_user.folder
    layer = agent_layer.squashfs(NATIVE, images.store())
    shared(layer, folder / "layer.sqfs")
    zoo("oci").layout(folder / "layout")
    (folder / "env").write_text(Apptainer().env_text({"OH_SESSION_API_KEYS_0": KEY}))
    port = free_port()

    def begin() -> int:
        """What becomes of the process after this one is the test's matter."""
        build = ["apptainer", "build", "--disable-cache", "base.sif", "oci:layout"]
        process.run(build, what="make a SIF of the base")
        words = agent_layer.mount_argv("apptainer", folder / "layer.sqfs")
        assert words == ["--bind", f"{folder}/layer.sqfs:/slipworks-agent:image-src=/"]
        argv = [
            "apptainer",
            "exec",
            "--containall",
            "--pwd=/tmp",
            "--env-file=env",
            *words,
            "base.sif",
            SERVER,
        ]
        return process.start([*argv, "--port", str(port)], what="start it", log=folder / "log").pid

    session = ordinary_user.do(begin)
    try:
        with Agent(f"http://127.0.0.1:{port}", KEY) as client:
            awaited(client, session, folder / "log")
            ran = client.command("echo $FROM_BASE; id -u")
            client.upload("/tmp/a file", b"\0back")
            assert client.download("/tmp/a file") == b"\0back"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(session, signal.SIGKILL)
    uid = pwd.getpwnam(ordinary_user.name).pw_uid
    assert (ran.code, ran.out) == (0, f"it's here\n{uid}\n"), ran.err


def shared(layer: Path, at: Path) -> None:
    try:
        os.link(layer, at)
    except OSError:  # another file system
        shutil.copyfile(layer, at)


def awaited(client: Agent, pid: int, log: Path) -> None:
    end = time.monotonic() + DEADLINE
    while not client.alive():
        assert Path(f"/proc/{pid}/exe").exists() and time.monotonic() < end, log.read_text()[-3000:]
        time.sleep(0.1)


def test_a_folder_is_an_overlay_volume_of_podman(
    agent: AgentLayer, zoo: Zoo, registry_host: str, podman: Engine, tmp_path: Path
) -> None:
    """On a base that nothing was baked on; and what a sandbox does to the layer, no other one sees."""
    layer = agent_layer.unpacked(NATIVE, images.store())
    base = had(podman, put(zoo("busybox"), registry_host, "zoo/busybox"))
    start = Start(engine=podman, image=base, entrypoint=False, command=(SERVER,), deadline=DEADLINE,
                  mount=tuple(agent_layer.mount_argv("podman", layer)))  # fmt: skip
    with sandbox.started(start, tmp_path) as running:
        ran = running.agent.command(
            "echo $FROM_BASE; echo spoilt > /slipworks-agent/bin/start && echo written"
        )
        assert (ran.code, ran.out) == (0, "it's here\nwritten\n")
    assert "spoilt" not in (layer / "bin/start").read_text()


SDK = """
import os
from openhands.sdk.workspace import RemoteWorkspace
with RemoteWorkspace(host=os.environ["URL"], api_key=os.environ["THE_KEY"], working_dir="/tmp") as sandbox:
    ran = sandbox.execute_command("echo $FROM_BASE; exit 3", cwd="/tmp")
    with open("/tmp/own", "wb") as file:
        file.write(bytes(range(256)) * 999)
    up = sandbox.file_upload("/tmp/own", "/tmp/there/a file")
    down = sandbox.file_download("/tmp/there/a file", "/tmp/back")
    same = open("/tmp/back", "rb").read() == open("/tmp/own", "rb").read()
    print("told:", ran.exit_code, ran.stdout.strip(), up.success, down.success, same)
"""


@pytest.fixture
def running(baked: Bake, podman: Engine, tmp_path: Path) -> Iterator[Sandbox]:
    start = Start(engine=podman, image=had(podman, baked("non-root")), deadline=DEADLINE)
    with sandbox.started(start, tmp_path) as found:
        yield found


def test_the_sdks_own_client_works_with_a_sandbox(
    running: Sandbox, baked: Bake, podman: Engine, tmp_path: Path
) -> None:
    """The SDK rides in the layer: its client runs in a container of its own, on this machine's network."""
    (tmp_path / "env").write_text(podman.env_text({"THE_KEY": running.key}))
    python = f"/slipworks-agent/python/bin/python{agent_layer.spec().python}"
    client = ContainerRun(
        image=baked("busybox"), argv=(python, "-I", "-c", SDK), plain=True, env_file=tmp_path / "env",
        env={"URL": running.url, "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
    )  # fmt: skip
    had(podman, baked("busybox"))
    done = subprocess.run(podman.run_argv(client), capture_output=True, text=True, timeout=300, check=False)
    assert "told: 3 it's here True True True" in done.stdout, done.stdout + done.stderr


def test_squashed_is_the_same_whatever_the_machine_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At another time, in another order of the disk, by fewer cores."""
    need(shutil.which("mksquashfs"), "mksquashfs is not installed (apt-get install squashfs-tools)")
    names = [f"bin/{number}" for number in range(200)]
    for folder, order in ((tmp_path / "one", names), (tmp_path / "other", list(reversed(names)))):
        (folder / "bin").mkdir(parents=True)
        for name in order:
            (folder / name).write_bytes(name.encode() * 9000)
    (tmp_path / "one/link").symlink_to("bin/1")
    (tmp_path / "other/link").symlink_to("bin/1")
    for path in (tmp_path / "other").rglob("*"):
        os.utime(path, (1_600_000_000, 1_600_000_000), follow_symlinks=False)
    layer_mounts.squash(tmp_path / "one", tmp_path / "one.sqfs")
    monkeypatch.setattr("kit.share.cpus", lambda: 1)
    layer_mounts.squash(tmp_path / "other", tmp_path / "other.sqfs")
    assert digest_file(tmp_path / "one.sqfs") == digest_file(tmp_path / "other.sqfs")
