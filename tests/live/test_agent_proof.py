"""`runner prebuild verify` as a process of its own: real images, real containers, and what it leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from containers import engine
from containers.engine import ContainerRun, Engine
from image_cache.places import Origin
from kit import process
from runner import sandbox, sandbox_proof
from tests.live.parts_bases import Bottom, Entry, Zoo, busybox_tar, put, served
from tests.live.parts_roots import NATIVE
from tests.live.parts_sandboxes import Bake

pytestmark = pytest.mark.live
MAIN = "import sys; from runner.cli import main; sys.exit(main())"


def typed(*words: str | Path) -> list[str]:
    return [sys.executable, "-c", MAIN, "prebuild", *map(str, words)]


def verified(*words: str | Path, code: int = 0) -> tuple[list[dict[str, Any]], str]:
    """The proofs and the story of a run that must end with `code`."""
    done = subprocess.run(
        typed("verify", "--json", "--deadline", "300", *words), capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(done.stdout), done.stderr


@pytest.fixture(scope="module")
def podman(chain: Engine) -> Engine:
    return chain


def forgotten(podman: Engine, image: str) -> str:
    """An image that podman does not have: an earlier test may have let it."""
    if podman.has(image) is not None:
        process.run(podman.remove_image_argv(image), what=f"remove {image}")
    return image


def listed(podman: Engine, *which: str) -> list[str]:
    argv = podman.run_argv(ContainerRun(image="x", argv=()))
    done = process.run([*argv[: argv.index("run")], "ps", "--format={{.Names}}", *which], what="list")
    return done.out.split()


def test_a_sample_of_a_prebuild_works(
    zoo: Zoo, registry_host: str, agent: object, podman: Engine, tmp_path: Path
) -> None:
    """From the list to the proof by the verbs alone, with the real layer; nothing is left in the engine."""
    names = [put(zoo(name), registry_host, f"proved/{name}") for name in ("entrypoint", "non-root")]
    (tmp_path / "list").write_text("".join(f"{name}\n" for name in names))
    kept = ("--journal", tmp_path / "journal")
    for words in (("plan", tmp_path / "list", "--to", f"{registry_host}/made", *kept), ("run", *kept)):
        done = subprocess.run(typed(*words), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    (proof,), _ = verified("--sample", "1", *kept)
    assert proof["error"] is None and proof["ready"] > 0
    assert proof["base"] in names and proof["notes"] == []
    assert f"{registry_host}/made/proved/" in proof["image"] and "@sha256:" in proof["image"]
    assert [each["name"] for each in proof["steps"]] == [
        "pull", "start", "command", "files", "stop", "client path", "pull", "folder"
    ]  # fmt: skip
    assert podman.has(proof["image"]) is None and listed(podman, "--all") == []
    named = subprocess.run(typed("verify", "--all", "--dry-run", *kept), capture_output=True, text=True)
    assert proof["image"] in named.stdout.split() and len(named.stdout.split()) == 2


def test_what_does_not_work_is_told_by_its_kind_and_spares_others(
    zoo: Zoo, baked: Bake, registry_host: str, podman: Engine
) -> None:
    """Four images at once, of which one works; a container of somebody else's goes on."""
    plain = put(zoo("oci"), registry_host, "proved/plain")  # has no agent-server at all
    image = served(busybox_tar(), [Entry("slipworks-agent", b"a file")])
    broken = put(Bottom(name="broken", image=image), registry_host, "proved/broken")
    missing = f"{registry_host}/proved/never:1"
    good = forgotten(podman, baked("busybox"))
    sandbox_proof.pulled(podman, Origin.parse(plain), NATIVE)
    other = f"slipworks-test-other-{os.getpid()}"
    run = ContainerRun(image=plain, argv=("sleep", "600"), name=other)
    bystander = process.start(podman.run_argv(run), what="sleep", log=Path(os.devnull))
    try:
        proofs, story = verified(plain, broken, missing, good, "--no-compare", code=42)
        assert [each["error_class"] for each in proofs] == ["ours", "ours", "base missing", None]
        assert "openhands-agent-server" in proofs[0]["error"]
        assert "3 of 4 images do not work" in story and "hint: runner prebuild verify" in story
        assert listed(podman, "--all") == [other]
        assert podman.has(plain) is not None, "it was there before"
        assert podman.has(good) is None and podman.has(broken) is None
    finally:
        process.finish(podman.remove_argv([other]), what="remove")
        bystander.wait(30)


def test_interrupted_it_leaves_nothing(baked: Bake, podman: Engine) -> None:
    argv = typed("verify", forgotten(podman, baked("busybox")), "--no-compare", "--deadline", "300")
    child = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 300
    while not [each for each in listed(podman) if each.startswith(f"slipworks-sandbox-{child.pid}-")]:
        assert time.monotonic() < end and child.poll() is None
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    _, story = child.communicate(timeout=120)
    assert child.returncode == 128 + signal.SIGINT and story.endswith("interrupted\n"), story
    assert listed(podman, "--all") == []
    assert podman.has(baked("busybox")) is None


def test_no_key_is_seen_from_outside(baked: Bake, podman: Engine, tmp_path: Path) -> None:
    """Not in the words of any process while the sandbox runs."""
    sandbox_proof.pulled(podman, Origin.parse(baked("busybox")), NATIVE)
    start = sandbox.Start(engine=podman, image=baked("busybox"), deadline=300)
    with sandbox.started(start, tmp_path) as running:
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                assert running.key.encode() not in path.read_bytes()
            except OSError:
                continue
        assert running.key not in running.agent.command("env").out
        assert all(each.stat().st_mode & 0o077 == 0 for each in tmp_path.glob("*.env"))
    assert running.key not in running.log.read_text()


def test_docker_proves_an_image_too(baked: Bake, private_dockerd: str) -> None:
    """On the host's network: a daemon of these tests has no bridge. Its own store of images is as it was."""
    docker = engine.get("docker")
    docker.check()
    reference = baked("staff-bin")
    (proof,), _ = verified(reference, "--engine", "docker", "--network", "host")
    assert proof["error"] is None and proof["ready"] > 0
    assert [each["name"] for each in proof["steps"]][-1] == "folder" and not proof["steps"][-1]["told"]
    assert docker.has(reference) is None
    done = process.run(["docker", "ps", "--all", "--quiet"], what="list")
    assert done.out == ""
