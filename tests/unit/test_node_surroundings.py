"""What a node gives its command, asks of its machine first, and keeps and removes in the end."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from kit import files, process
from kit.errors import LaunchError
from runner.launch import Artifact, RayPlan, Service
from runner.meeting import Meeting
from runner.prerequisites import check
from runner.runs import RunFolder
from tests.unit.parts_node import alone, ended, events, job, node_argv, seen, start, text

pytestmark = pytest.mark.timeout(120)
PRELOADED = """#!/bin/sh
echo "Ray has <$LD_PRELOAD>"
echo "Ray runtime started."
exec sleep 1000
"""


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


@pytest.mark.parametrize("ready_within", [1.0, 60.0])
def test_artifacts_of_a_job_that_did_not_begin_are_kept(ready_within: float, folder: RunFolder) -> None:
    """Its service is never ready, or dies: what either left says why."""
    out = folder.root / "out"
    out.mkdir()
    end = "exec sleep 1000" if ready_within == 1 else "exit 3"
    service = Service(name="s", run=f"echo 1 >a; {end}", ready="file:/no/such", ready_within=ready_within)
    job(
        folder,
        "touch",
        "began",
        workdir=str(out),
        services=(service,),
        artifacts=(Artifact(source=f"{out}/*"),),
    )
    code, log = alone(folder)
    assert code == LaunchError.code and "the service s" in log and not (out / "began").exists()
    assert (folder.artifacts / str(out / "a").lstrip("/")).read_text() == "1\n"


def test_artifacts_of_a_second_attempt_replace_none(folder: RunFolder) -> None:
    out = folder.root / "out"
    out.mkdir()
    copies = folder.artifacts / str(out).lstrip("/")
    for number in (1, 2):
        Meeting(folder.attempt(number).meeting).open()
        job(
            folder,
            "sh",
            "-c",
            f"echo {'x' * number} >a",
            workdir=str(out),
            artifacts=(Artifact(source=str(out)),),
        )
        words = [*node_argv(folder, 0), "--attempt", str(number)]
        done = process.run(words, what="test", check=False, timeout=60)
        assert done.code == 0, done.err
    assert (copies / "a").read_text() == "xx\n" and (copies / "a.before-attempt-2").read_text() == "x\n"


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
