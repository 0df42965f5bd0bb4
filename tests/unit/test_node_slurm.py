"""What a batch script and Slurm ask of nodes: the command on each, warnings, ends, what is kept."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
from msgspec import json

from kit import files
from kit.errors import LaunchError
from runner.launch import Artifact, RayPlan
from runner.meeting import Ended, Meeting
from runner.prerequisites import check
from runner.runs import RunFolder
from tests.unit.parts_node import alone, ended, job, node_argv, seen, start, text

pytestmark = pytest.mark.timeout(120)
SHOW = 'echo "$SLIPWORKS_RANK of $SLIPWORKS_NODES at $MASTER_ADDR:$MASTER_PORT"'
PRELOADED = """#!/bin/sh
echo "Ray has <$LD_PRELOAD>"
echo "Ray runtime started."
exec sleep 1000
"""
CATCH = """
import signal, sys, time
def caught(*_):
    print("caught", flush=True)
    sys.exit(5)
signal.signal(signal.SIGUSR2, caught)
print("up", flush=True)
time.sleep(1000)
"""


def everywhere(folder: RunFolder, script: str, nodes: int = 2, **more: object) -> list[str]:
    job(folder, "sh", "-euc", script, nodes=nodes, interface="lo", everywhere=True, **more)
    codes, logs = ended(folder, *(start(folder, rank) for rank in range(nodes)))
    return [f"{code} {log}" for code, log in zip(codes, logs, strict=True)]


def events(folder: RunFolder, rank: int) -> list[str]:
    lines = folder.attempt(1).events(str(rank)).read_bytes().splitlines()
    return [json.decode(line)["event"] for line in lines]


def test_the_command_runs_on_every_node_and_knows_the_first(folder: RunFolder) -> None:
    stories = everywhere(folder, SHOW, nodes=3)
    told = [line for story in stories for line in story.splitlines() if " of 3 at " in line]
    assert [line.split()[0] for line in told] == ["0", "1", "2"]
    (where,) = {line.split()[-1] for line in told}
    host, _, port = where.partition(":")
    assert host == "127.0.0.2" and 10000 < int(port) < 65536
    assert all(story.startswith("0 ") for story in stories)


def test_the_first_nodes_code_is_the_jobs(folder: RunFolder) -> None:
    stories = everywhere(folder, 'test "$SLIPWORKS_RANK" != 0 || exit 7; sleep 1000')
    assert stories[0].startswith("7 ") and stories[1].startswith("0 ")


def test_another_nodes_bad_end_ends_the_job_by_name(folder: RunFolder) -> None:
    script = 'if [ "$SLIPWORKS_RANK" = 1 ]; then echo "my last word"; exit 3; fi; sleep 1000'
    stories = everywhere(folder, script)
    assert stories[0].startswith(f"{LaunchError.code} ")
    assert "node 1 failed: the command ended there with exit code 3" in stories[0]
    assert "my last word" in stories[0]
    assert folder.finished.read_text() == "no step was made\n", "it was the command that failed"


def test_a_node_whose_command_ends_well_waits_for_the_first(folder: RunFolder) -> None:
    mark = folder.root / "second has ended"
    script = f"""
        if [ "$SLIPWORKS_RANK" = 1 ]; then exit 0; fi
        until grep -q '"command ended"' "{folder.attempt(1).events("1")}"; do sleep 0.1; done
        touch "{mark}"; sleep 0.5; exit 4"""
    stories = everywhere(folder, script.replace('a run\'s "folder"', 'a run\'s \\"folder\\"'))
    assert stories[0].startswith("4 ") and stories[1].startswith("0 ") and mark.exists()


def test_a_node_that_never_comes_is_named(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    from runner import ends, peers

    launch = job(folder, "true", nodes=2, everywhere=True)
    monkeypatch.setattr(peers, "COMES_WITHIN", -1.0)
    watched = peers.Peers(folder.attempt(1), Meeting(folder.attempt(1).meeting), 0, launch)
    with pytest.raises(ends.Died, match="node 1 failed: it did not start within"):
        watched.check()


def test_a_silent_node_is_named(folder: RunFolder) -> None:
    """It was there, and gives no sign of life: its machine is gone."""
    job(folder, "sleep", "1000", nodes=2, interface="lo", everywhere=True, silence=2.0)
    files.write(folder.attempt(1).meeting / "alive-1", "1")
    files.write(folder.attempt(1).log(1), "its last words\n")
    code, log = alone(folder)
    assert code == LaunchError.code and "node 1 failed: no sign of life for 2 s" in log
    assert "its last words" in log and not folder.finished.exists()


@pytest.mark.parametrize("wrapped", [False, True])
def test_the_warning_reaches_the_program_that_handles_it(folder: RunFolder, wrapped: bool) -> None:
    """A shell around it, which does not know USR2 and would be ended by it, gets none."""
    if wrapped:
        files.write(folder.root / "it.py", CATCH)
        job(folder, "sh", "-euc", f'"{sys.executable}" it.py; exit 6', workdir=str(folder.root))
    else:
        job(folder, sys.executable, "-c", CATCH)
    node = start(folder)
    seen(lambda: "up\n" in text(folder.attempt(1).log(0)))
    (folder.attempt(1).meeting / "warning").touch()
    codes, logs = ended(folder, node)
    assert codes == [5] and "caught" in logs[0]
    assert events(folder, 0).count("warning passed on") == 1


def test_a_command_that_does_not_handle_the_warning_goes_on(folder: RunFolder) -> None:
    (folder.attempt(1).meeting / "warning").touch()
    job(folder, "sh", "-c", "sleep 0.5; exit 4")
    assert alone(folder)[0] == 4


@pytest.mark.parametrize("sign", [signal.SIGUSR1, signal.SIGUSR2])
def test_a_warning_to_the_node_itself_does_no_harm(folder: RunFolder, sign: signal.Signals) -> None:
    """`--signal=USR2@60` sends it to every process of the step; and a shell can still trap it."""
    script = f"trap 'echo trapped; exit 6' {sign.name[3:]}; echo up; while :; do sleep 0.1; done"
    job(folder, "sh", "-c", script)
    node = start(folder)
    seen(lambda: "up\n" in text(folder.attempt(1).log(0)))
    node.send_signal(sign)
    (command,) = Path(f"/proc/{node.pid}/task/{node.pid}/children").read_text().split()
    os.kill(int(command), sign)
    codes, logs = ended(folder, node)
    assert codes == [6] and "trapped" in logs[0]


def test_slurms_term_to_everything_is_a_stop(folder: RunFolder) -> None:
    """scancel and the time limit send TERM to every process of the step, in any order."""
    job(folder, "sleep", "1000")
    (folder.attempt(1).meeting / "warning").touch()
    node = start(folder)
    seen(lambda: "running the command" in text(folder.attempt(1).log(0)))
    (command,) = Path(f"/proc/{node.pid}/task/{node.pid}/children").read_text().split()
    os.kill(int(command), signal.SIGTERM)
    seen(lambda: not Path(f"/proc/{command}").exists() or "Z" in stat(command))
    node.terminate()
    codes, _ = ended(folder, node)
    assert codes == [143] and not folder.finished.exists()
    told = Meeting(folder.attempt(1).meeting).ended(0)
    assert told == Ended(143, "SIGTERM came, after the warning of the time limit")


def stat(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2]
    except OSError:
        return "Z"


@pytest.mark.parametrize(
    ("script", "finished"),
    [
        ("exit 0", "succeeded\n"),
        ("exit 3", "no step was made\n"),
        ("kill -9 $$", None),
        ("printf '\\033[36m(main pid=7) Started:\\033[0m '\"'step'\"'\\n'; exit 3", None),
        ("touch kept/new; exit 3", None),
        ("mkdir kept/empty; exit 3", "no step was made\n"),
        ("echo more >>kept/old; exit 3", None),
    ],
)
def test_whether_another_attempt_may_run(folder: RunFolder, script: str, finished: str | None) -> None:
    kept = folder.root / "kept"
    files.write(kept / "old", "x")
    job(folder, "sh", "-c", script, workdir=str(folder.root), checkpoints=str(kept))
    alone(folder)
    assert (folder.finished.read_text() if folder.finished.exists() else None) == finished


def test_a_word_that_was_said_first_stays(folder: RunFolder) -> None:
    files.write(folder.finished, "cancelled\n")
    job(folder, "true")
    assert alone(folder)[0] == 0 and folder.finished.read_text() == "cancelled\n"


def test_the_schedulers_word_goes_on_in_part(folder: RunFolder) -> None:
    said = {
        "SLURM_JOB_ID": "77", "SLURM_NODEID": "0", "SLURM_NTASKS": "4", "CUDA_VISIBLE_DEVICES": "MIG-a,MIG-b",
        "SLURM_JOB_NAME": "it's\na \xe9 $(job)",
    }  # fmt: skip
    raw = b"".join(f"{name}={value}".encode("latin-1") + b"\0" for name, value in said.items())
    files.write(folder.attempt(1).step(0), raw)
    show = "import os, sys; [print(repr((n, os.environb[n]))) for n in sorted(os.environb) if n[:1] in b'CS']"
    job(folder, sys.executable, "-c", show, checkpoints="/checkpoints")
    code, log = alone(folder)
    assert code == 0
    for name in ("SLURM_JOB_ID", "SLURM_JOB_NAME", "CUDA_VISIBLE_DEVICES"):
        assert repr((name.encode(), said[name].encode("latin-1"))) in log
    assert "SLURM_NTASKS" not in log and "(b'SLIPWORKS_CHECKPOINTS', b'/checkpoints')" in log


def test_a_node_without_the_interface_says_what_it_has() -> None:
    from runner import addresses
    from runner.fixing import facts_like, launch_like

    there = facts_like(rank=2, nodes=2)
    assert addresses.own(there, launch_like(ray=None, interface="eth0", nodes=2)) == "10.0.0.5"
    assert addresses.own(there, launch_like(ray=None, interface="lo", nodes=2)) == "127.0.0.4"
    with pytest.raises(LaunchError, match=r"node 2 \(n1\) has no interface ib0 .*; it has lo, eth0"):
        addresses.own(there, launch_like(ray=None, interface="ib0", nodes=2))


def test_the_rank_is_an_option_too(folder: RunFolder) -> None:
    job(folder, "sh", "-c", "exit $SLIPWORKS_RANK", nodes=1)
    argv = [word for word in node_argv(folder, 0) if not word.startswith("SLIPWORKS_RANK=")]
    from kit import process

    done = process.run([*argv, "--rank", "0"], what="test", check=False, timeout=60)
    assert done.code == 0
    done = process.run([*argv, "--rank", "-1"], what="test", check=False, timeout=60)
    assert done.code == 2 and "--rank" in done.err


def test_the_jobs_code_comes_first(folder: RunFolder) -> None:
    files.write(folder.root / "mine/colorsys.py", "MINE = True\n")
    job(
        folder, sys.executable, "-c", "import colorsys; colorsys.MINE",
        env={"PYTHONPATH": "/somewhere"}, code=(str(folder.root / "mine"),),
    )  # fmt: skip
    assert alone(folder)[0] == 0


def test_preload_is_for_the_command_alone(folder: RunFolder, tmp_path: Path) -> None:
    library = next(Path("/usr/lib").glob("*-linux-gnu/libm.so.6"), None)
    assert library, "a Linux machine with glibc has libm there"
    files.write(tmp_path / "bin/ray", PRELOADED, mode=0o755)
    show = "import os; print('command has', os.environ['LD_PRELOAD'], open('/proc/self/maps').read())"
    job(folder, sys.executable, "-c", show, interface="lo", ray=RayPlan(), preload=(str(library),))
    codes, logs = ended(folder, start(folder, path=str(tmp_path / "bin")))
    assert codes == [0] and f"command has {library}" in logs[0] and logs[0].count("libm.so.6") > 1
    assert "Ray has <>" in folder.attempt(1).ray_log(0).read_text()


@pytest.mark.parametrize(
    "more",
    [{"preload": ("/no/such.so",)}, {"command_env": {"VLLM_NCCL_SO_PATH": "/no/such.so"}}],
)
def test_a_missing_library_is_told_before_anything_starts(folder: RunFolder, more: dict[str, object]) -> None:
    job(folder, "true", **more)
    code, log = alone(folder)
    assert code == LaunchError.code and "/no/such.so, which is not in the image" in log
    assert "command started" not in events(folder, 0)


@pytest.mark.parametrize(
    ("found", "needed", "good"),
    [
        ("565.57.01", "580", False), ("580.65.06", "580", True), ("580", "580.0.0", True),
        ("525.60.13", "525.60.13", True), ("525.60.12", "525.60.13", False), (None, "580", True),
        ("565.57.01", None, True),
    ],
)  # fmt: skip
def test_the_driver_is_checked(found: str | None, needed: str | None, good: bool) -> None:
    from runner.fixing import facts_like, launch_like

    facts, launch = facts_like(rank=3, driver=found), launch_like(driver_floor=needed)
    if good:
        check(facts, launch, {})
        return
    with pytest.raises(LaunchError, match=f"node 3 .* has driver {found}, the image needs {needed}") as bad:
        check(facts, launch, {})
    assert bad.value.hint and "line=" in bad.value.hint


def test_artifacts_are_kept_however_it_ends(folder: RunFolder) -> None:
    out = folder.root / "out"
    out.mkdir()
    kept = (Artifact(source=f"{out}/*.json", every=0.1), Artifact(source=f"{out}/none*"))
    script = "echo 1 >a.json; sleep 0.5; echo 2 >b.json; exit 9"
    job(folder, "sh", "-c", script, workdir=str(out), artifacts=kept)
    code, log = alone(folder)
    copies = folder.artifacts / str(out).lstrip("/")
    assert code == 9 and sorted(each.name for each in copies.iterdir()) == ["a.json", "b.json"]
    assert f"no file matches the artifact {out}/none*" in log


def test_artifacts_of_a_stopped_job_are_kept(folder: RunFolder) -> None:
    out = folder.root / "out"
    out.mkdir()
    job(folder, "sh", "-c", "echo 1 >a; echo up; sleep 1000", workdir=str(out),
        artifacts=(Artifact(source=str(out)),))  # fmt: skip
    node = start(folder)
    seen(lambda: "up\n" in text(folder.attempt(1).log(0)))
    node.terminate()
    assert ended(folder, node)[0] == [143]
    assert (folder.artifacts / str(out / "a").lstrip("/")).read_text() == "1\n"


def test_shared_memory_of_killed_processes_is_removed(folder: RunFolder) -> None:
    mine, other = (Path(f"/dev/shm/slipworks-test-{os.getpid()}-{word}") for word in ("mine", "other"))
    other.write_text("x")
    hold = f"a = open({str(mine)!r}, 'w'); b = open({str(other)!r})"
    hold += "; import time; print('up', flush=True); time.sleep(1000)"
    job(folder, sys.executable, "-c", hold, grace=0.5)
    try:
        node = start(folder)
        seen(lambda: "up\n" in text(folder.attempt(1).log(0)))
        Meeting(folder.attempt(1).meeting).stop("enough")
        assert ended(folder, node)[0] == [143]
        assert not mine.exists() and other.exists(), "only what came with the job goes with it"
    finally:
        other.unlink()
