"""`runner node` and the local launcher as real processes, without containers.

Ray is real in tests/live; here a stand-in shows the faults that it does not show on demand.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec import json

from kit import files
from kit.errors import LaunchError
from runner import ends, family, local, ports
from runner.launch import Launch, RayPlan
from runner.meeting import Ended, Meeting
from runner.runs import RunFolder
from tests.unit.parts_node import alone, job, node_argv, seen, start, text

pytestmark = pytest.mark.timeout(90)
RAY = """#!/bin/sh
echo "Ray runtime started."
exec sleep 1000
"""
BROKEN_RAY = """#!/bin/sh
echo "no luck today"
exit 3
"""


@pytest.mark.parametrize("code", [0, 1, 7, 50, 255])
def test_the_commands_exit_code_is_the_nodes(folder: RunFolder, code: int) -> None:
    job(folder, "sh", "-c", f"exit {code}")
    assert alone(folder)[0] == code
    assert Meeting(folder.attempt(1).meeting).ended(0) == Ended(code)


def test_a_command_ended_by_a_signal(folder: RunFolder) -> None:
    job(folder, "sh", "-c", "kill -9 $$")
    assert alone(folder)[0] == 128 + 9


@pytest.mark.parametrize(
    ("command", "said"), [("no-such-program", "no-such-program"), ("/etc/passwd", "executable")]
)
def test_a_command_that_cannot_start(folder: RunFolder, command: str, said: str) -> None:
    job(folder, command)
    code, log = alone(folder)
    assert code in (20, 50) and said in log and "Traceback" not in log


def test_a_missing_workdir(folder: RunFolder) -> None:
    job(folder, "true", workdir="/no/such/folder")
    code, log = alone(folder)
    assert code == 20 and "/no/such/folder" in log and "Traceback" not in log


def test_words_and_values_arrive_byte_for_byte(folder: RunFolder) -> None:
    odd = "a b'c\"d$(touch x)`e`\\\n#é"
    show = "import os, sys; sys.stdout.write(repr((sys.argv[1], os.environ['ODD'])))"
    job(folder, sys.executable, "-c", show, odd, env={"ODD": odd})
    code, log = alone(folder)
    assert code == 0 and repr((odd, odd)) in log


def test_secrets_reach_the_command_and_nothing_else(folder: RunFolder) -> None:
    job(folder, "sh", "-c", "test ${#KEY} = 12")
    files.write(folder.secrets, json.encode({"KEY": "s3cret-value"}), mode=0o600)
    assert alone(folder)[0] == 0
    folder.secrets.unlink()
    texts = [file.read_text() for file in folder.root.rglob("*") if file.is_file()]
    assert texts and not any("s3cret-value" in text for text in texts)


def test_the_environments_values_are_not_recorded(folder: RunFolder) -> None:
    job(folder, "true")
    alone(folder)
    recorded = json.decode(folder.attempt(1).facts(0).read_bytes())
    assert "HOME" in recorded["env"] and not any(recorded["env"].values())


def test_term_ends_even_an_orphan_that_ignores_it(folder: RunFolder) -> None:
    """A grandchild in a session of its own, its parent gone, deaf to TERM."""
    mark = folder.root / "orphan"
    write = f"open({str(mark)!r}, 'w').write(str(os.getpid()))"
    deaf = f"import os, signal, time; signal.signal(15, 1); {write}; time.sleep(999)"
    nap = "import time; time.sleep(999)"
    words = f"[sys.executable, '-c', {deaf!r}], start_new_session=True"
    job(folder, sys.executable, "-c", f"import subprocess, sys; subprocess.Popen({words}); {nap}", grace=1.0)
    child = start(folder)
    seen(lambda: mark.exists() and mark.read_text())
    child.terminate()
    assert child.wait(30) == 128 + 15
    assert int(mark.read_text()) not in family.descendants(os.getpid())


def test_the_command_gets_its_grace(folder: RunFolder) -> None:
    mark = folder.root / "saved"
    script = f"trap 'echo x > \"{mark.name}\"; exit 0' TERM; echo up; while :; do sleep 0.1; done"
    job(folder, "sh", "-c", script, workdir=str(folder.root))
    child = start(folder)
    seen(lambda: "up\n" in text(folder.attempt(1).log(0)))
    child.terminate()
    child.wait(30)
    assert mark.exists()


def test_a_launcher_that_died_ends_the_job(folder: RunFolder) -> None:
    job(folder, "sleep", "1000", attended=True, silence=1.0)
    files.write(folder.attempt(1).meeting / "alive-launcher", "1")  # its last sign of life
    code, log = alone(folder)
    assert code == 128 + signal.SIGHUP and "launcher" in log


def test_the_stop_file_ends_the_job(folder: RunFolder) -> None:
    job(folder, "sleep", "1000")
    Meeting(folder.attempt(1).meeting).stop("the test says so")
    code, log = alone(folder)
    assert code == 143 and "the test says so" in log


def test_a_ray_that_will_not_start(folder: RunFolder, tmp_path: Path) -> None:
    files.write(tmp_path / "bin/ray", BROKEN_RAY, mode=0o755)
    job(folder, "true", ray=RayPlan())
    child = start(folder, path=str(tmp_path / "bin"))
    assert child.wait(60) == LaunchError.code
    log = folder.attempt(1).log(0).read_text()
    assert "exit code 3" in log and "no luck today" in log and "Traceback" not in log
    assert folder.attempt(1).ray_log(0).read_text().count("no luck") == 2, "it gets two tries"


def test_a_ray_that_dies_ends_the_job(folder: RunFolder, tmp_path: Path) -> None:
    mark = tmp_path / "go"
    mortal = f"""#!/bin/sh
echo "Ray runtime started."
until test -e '{mark}'; do sleep 0.1; done
echo "my last word"
exit 1
"""
    files.write(tmp_path / "bin/ray", mortal, mode=0o755)
    job(folder, "sleep", "1000", ray=RayPlan())
    child = start(folder, path=str(tmp_path / "bin"))
    seen(lambda: "running the command" in text(folder.attempt(1).log(0)))
    mark.touch()
    assert child.wait(60) == LaunchError.code
    log = text(folder.attempt(1).log(0))
    assert "Ray ended on node 0 with exit code 1; its last lines:" in log and "my last word" in log
    assert not folder.finished.exists(), "the command has not failed"


def test_an_image_without_ray(folder: RunFolder) -> None:
    job(folder, "true", ray=RayPlan())
    code, log = alone(folder)
    assert code == LaunchError.code and "ray: false" in log


# The launcher with two nodes; Ray is the stand-in.


def two(folder: RunFolder, tmp_path: Path, *command: str, **more: object) -> tuple[Launch, list[list[str]]]:
    files.write(tmp_path / "bin/ray", RAY, mode=0o755)
    made = job(folder, *command, nodes=2, nodes_here=2, interface="lo", attended=True, ray=RayPlan(), **more)
    return made, [node_argv(folder, rank, str(tmp_path / "bin")) for rank in (0, 1)]


def in_thread(work: Callable[[], None]) -> None:
    threading.Thread(target=work, daemon=True).start()


def pid_of_node(folder: RunFolder, rank: int) -> int:
    """The node's process: the child of this one whose environment has the rank."""
    for pid in family.descendants(os.getpid()):
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        words = Path(f"/proc/{pid}/cmdline").read_bytes()
        if f"SLIPWORKS_RANK={rank}".encode() in environment and b"--run" in words:
            return pid
    raise AssertionError("there is no such node")


def test_two_nodes_come_and_go(folder: RunFolder, tmp_path: Path) -> None:
    launch, argvs = two(folder, tmp_path, "sh", "-c", "echo at $RAY_ADDRESS; exit 4")
    lines: list[str] = []
    remove = ["touch", str(tmp_path / "removed")]
    assert local.run(folder.attempt(1), launch, argvs, lines.append, remove) == 4
    assert not (tmp_path / "removed").exists(), "each node has told its own end: nothing can be left"
    assert any(line.startswith("at 127.0.0.2:") for line in lines)
    assert Meeting(folder.attempt(1).meeting).ended(1) == Ended(0)


def test_a_worker_that_dies_ends_the_job_by_name(folder: RunFolder, tmp_path: Path) -> None:
    launch, argvs = two(folder, tmp_path, "sleep", "1000")
    log = folder.attempt(1).log(0)

    def kill() -> None:
        seen(lambda: "running the command" in text(log))
        os.kill(pid_of_node(folder, 1), signal.SIGKILL)

    in_thread(kill)
    lines: list[str] = []
    assert local.run(folder.attempt(1), launch, argvs, lines.append) == LaunchError.code
    said = "\n".join(lines)
    assert "error: node 1 failed: " in said and "fix node_ip" in said, "the node's name and its last lines"
    family.end(1.0)  # what a container's end would have taken with it


def test_a_head_that_dies_ends_the_job_by_name(folder: RunFolder, tmp_path: Path) -> None:
    launch, argvs = two(folder, tmp_path, "sleep", "1000")
    log = folder.attempt(1).log(0)

    def kill() -> None:
        seen(lambda: "running the command" in text(log))
        os.kill(pid_of_node(folder, 0), signal.SIGKILL)

    in_thread(kill)
    with pytest.raises(LaunchError, match="node 0 failed") as failure:
        local.run(folder.attempt(1), launch, argvs, lambda line: None)
    assert "running the command" in failure.value.message
    family.end(1.0)


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_all(folder: RunFolder, tmp_path: Path, sign: signal.Signals) -> None:
    launch, argvs = two(folder, tmp_path, "sleep", "1000")
    log = folder.attempt(1).log(0)

    def interrupt() -> None:
        seen(lambda: "running the command" in text(log))
        os.kill(os.getpid(), sign)

    in_thread(interrupt)
    before = signal.getsignal(sign)
    remove = ["touch", str(tmp_path / "removed")]
    assert local.run(folder.attempt(1), launch, argvs, lambda line: None, remove) == 128 + sign
    assert (tmp_path / "removed").exists()
    assert signal.getsignal(sign) is before


def test_a_client_that_is_not_there(folder: RunFolder, tmp_path: Path) -> None:
    launch = job(folder, "true", attended=True)
    with pytest.raises(Exception, match="no-such-engine is not installed"):
        local.run(folder.attempt(1), launch, [["no-such-engine"]], lambda line: None)


# The pieces.


def test_blocks_of_ports_do_not_meet() -> None:
    with ports.held("a job") as one, ports.held("a job") as other:
        assert abs(one - other) >= ports.SIZE and max(one, other) + ports.SIZE <= ports.ephemeral()
    with ports.held("a job") as again:
        assert again == one, "freed at the end"


def test_a_block_with_a_used_port_is_not_taken() -> None:
    import socket

    with ports.held("a job") as free:
        pass
    with socket.create_server(("127.0.0.1", free + 3)), ports.held("a job") as base:
        assert base != free


def test_a_node_that_ends_is_not_asked_again() -> None:
    """The launcher's word and the engine's TERM come together: the second would break off the ending."""
    before = {sign: signal.getsignal(sign) for sign in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    try:
        with ends.signals():
            with pytest.raises(ends.Stopped, match="SIGTERM came"):
                os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGHUP)
        with ends.signals():
            ends.Stopped(143, "another's word")
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)
