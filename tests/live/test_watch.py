"""The verbs that watch, on a real Slurm with accounting, and on this machine.

A job's container is this Python itself: what an engine does is tested elsewhere.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from msgspec import Struct, json

from kit import process
from runner import submission, submitted
from runner.chosen import Chosen
from runner.job import Job
from runner.launch import Launch
from runner.run_states import Row
from runner.runs import RunFolder, named
from runner.slurm_rows import Asked
from runner.watching import Watch
from slurm.client import Client
from slurm.script import Batch, render
from slurm.ways import Own
from tests.live.parts_slurm import Slurm, Starter
from tests.live.parts_slurm_conf import Shape
from tests.live.parts_slurm_daemons import until

pytestmark = [pytest.mark.live, pytest.mark.timeout(300)]
ROOT = Path(__file__).parents[2]
MAIN = "import sys; from runner.cli import main; sys.exit(main())"
RANK = "@rank@"
FOREVER = "echo $A_VALUE; trap 'echo ending; exit 3' TERM; sleep 1000 & wait"


@pytest.fixture(scope="module")
def slurm(slurm_like: Starter) -> Slurm:
    """Two nodes, with accounting."""
    return slurm_like(Shape(count=2), accounting=True)


class Typed(Struct):
    code: int
    out: str
    err: str


class Desk:
    """Where a user types, and the runs are."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self.runs = folder / "the user's runs"
        self.runs.mkdir()
        self.env = env | {
            "SLIPWORKS_RUNS": str(self.runs), "SLIPWORKS_CLUSTER": "generic", "PYTHONPATH": str(ROOT),
            "XDG_CONFIG_HOME": str(folder),
        }  # fmt: skip
        self.env.pop("SLIPWORKS_CACHE", None)

    def type(self, *words: str) -> Typed:
        done = subprocess.run(
            [sys.executable, "-c", MAIN, *words], env=self.env, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, timeout=120, check=False,
        )  # fmt: skip
        assert "Traceback" not in done.stderr, done.stderr
        assert "s3cret" not in done.stdout + done.stderr
        return Typed(done.returncode, done.stdout, done.stderr)

    def start(self, *words: str, log: Path) -> process.Child[bytes]:
        return process.start([sys.executable, "-c", MAIN, *words], what="type", log=log, env=self.env)

    def status(self, folder: RunFolder) -> dict[str, object]:
        (told,) = json.decode(self.type("status", "--json", folder.run_id).out)
        return dict(told)

    def until(self, folder: RunFolder, *states: str) -> dict[str, object]:
        deadline = time.monotonic() + 60
        while (told := self.status(folder))["state"] not in states:
            assert time.monotonic() < deadline, (told, logs(folder))
            time.sleep(0.2)
        return told

    def written(self, command: str, **more: object) -> RunFolder:
        """A run folder as `runner submit` leaves it."""
        folder = named(self.runs, "watched")
        plan = Launch(
            run_id=folder.run_id, name="watched", command=("/bin/bash", "-c", command),
            env={"A_VALUE": "it's here", "A_KEY": "s3cret"}, interface="lo", **more,  # type: ignore[arg-type]
        )  # fmt: skip
        job = Job(name="watched", run=command, nodes=plan.nodes, ray=False)
        submission.write(folder, job, plan, Chosen(reference="none", engine="apptainer"), {"B_KEY": "s3cret"})
        return folder


def logs(folder: RunFolder) -> str:
    found = sorted([*folder.root.glob("*.out"), *folder.root.glob("attempt-*/*.log")])
    return "\n".join(f"--- {each}\n{each.read_text(errors='replace')}" for each in found)


@pytest.fixture
def desk(slurm: Slurm, tmp_path: Path) -> Desk:
    tmp_path.chmod(0o755)
    return Desk(tmp_path, slurm.env)


def node(folder: RunFolder) -> list[str]:
    """What starts a node."""
    variables = [f"PYTHONPATH={ROOT}", f"PATH={os.environ['PATH']}", f"HOME={folder.root}"]
    return ["/usr/bin/env", "-i", *variables, sys.executable, "-c", MAIN, "node", "--run", str(folder.root)]


def submit(desk: Desk, command: str, nodes: int = 1, restarts: int = 0) -> RunFolder:
    folder = desk.written(command, nodes=nodes, restarts=restarts, everywhere=nodes > 1)
    batch = Batch(
        options={"job-name": "watched", "nodes": nodes, "output": str(folder.root / "slurm-%j.out")},
        run=folder.root, nodes=nodes, container=node(folder), rank_token=RANK, restarts=restarts,
        secrets=(folder.secrets, folder.token),
    )  # fmt: skip
    folder.script.write_text(render(batch))
    record = submitted.begin(folder, "watched", "generic", 1 + restarts)
    submitted.submit(folder, record, Client(Own(), desk.env))
    return folder


def test_a_chain_is_watched_followed_entered_and_cancelled(desk: Desk, slurm: Slurm, tmp_path: Path) -> None:
    folder = submit(desk, FOREVER, nodes=2, restarts=2)
    following = desk.start("logs", "-f", folder.run_id, log=tmp_path / "followed")
    until(lambda: "it's here" in (tmp_path / "followed").read_text(), "its log", 60, lambda: logs(folder))
    told = desk.status(folder)
    assert (told["state"], told["why"]) == ("running", "command started"), told
    jobs = [(each["state"], each["reason"]) for each in told["jobs"]]  # type: ignore[attr-defined]
    assert jobs == [("RUNNING", None), ("PENDING", "Dependency"), ("PENDING", "Dependency")]
    listed = desk.type("status")
    assert folder.root.name in listed.out and "+2" in listed.out, listed
    entered = desk.type(
        "attach", folder.run_id, "--node", "1", "--", "sh", "-c", 'echo "$A_VALUE $SLIPWORKS_RANK"; exit 9'
    )
    assert (entered.code, entered.out) == (9, "it's here 1\n"), entered
    host = told["attempts"][0]["hosts"][1]  # type: ignore[index]
    assert "it's here" in desk.type("logs", "last", "--node", host).out
    done = desk.type("cancel", folder.run_id)
    assert done.code == 0, done
    desk.until(folder, "cancelled")
    assert following.wait(60) == 0 and "ending" in (tmp_path / "followed").read_text()
    assert len(folder.attempts()) == 1 and not folder.secrets.exists()
    slurm.quiet()
    assert "had ended already: cancelled" in desk.type("cancel", folder.run_id).out
    gone = desk.type("attach", folder.run_id)
    assert gone.code == 32 and "does not run: it is cancelled" in gone.err
    history = json.decode(desk.type("history", "--cancelled", "--since", "1h", "--json").out)
    assert [each["run"] for each in history] == [folder.root.name]


def test_a_run_that_waits_and_one_that_fails(desk: Desk, slurm: Slurm) -> None:
    blocker = slurm.sbatch("#!/bin/bash\nsleep 1000\n", "--nodes=2", "--exclusive", "--job-name=notebook")
    try:
        slurm.wait_for(blocker, "RUNNING")
        waits = submit(desk, "exit 7")
        told = desk.until(waits, "pending")
        assert told["why"] in ("Resources", "Priority", "None"), told
        listed = desk.type("status").out
        assert "(notebook)" in listed, "mine, but no run of this kit"
        refused = desk.type("cancel", str(blocker))
        assert refused.code == 10 and "has the Slurm job" in refused.err
        assert desk.type("logs", "last").code == 32
    finally:
        slurm.run("scancel", str(blocker))
    told = desk.until(waits, "failed", "completed", "lost")
    assert (told["state"], told["code"], told["why"]) == ("failed", 7, "no step was made"), (
        told,
        logs(waits),
    )
    failed = desk.type("history", "--failed", "--since", "1h").out
    assert "failed (7)" in failed and waits.root.name in failed
    assert not json.decode(desk.type("history", "--completed", "--json").out)


def test_what_scancel_ends_is_told_by_the_accounting(desk: Desk, slurm: Slurm) -> None:
    """Without the queue's word, as it is some minutes after the end."""
    folder = submit(desk, FOREVER)
    until(lambda: "it's here" in logs(folder), "the command", 60, lambda: logs(folder))
    record = submitted.read(folder)
    assert record
    slurm.run("scancel", record.ids[0])
    slurm.wait_for(int(record.ids[0]), "CANCELLED")
    told = desk.until(folder, "cancelled")
    assert told["why"] == "in Slurm"

    class Forgetful(Asked):
        def mine(self) -> Mapping[str, Row]:
            return {}

    asked = Forgetful(Client(Own(), desk.env), "generic")

    def accounted() -> bool:
        # slurmctld tells of starts every 5 s: until then a job has no name there, and is nobody's.
        row = (asked.past(600, record.ids) or {}).get(record.ids[0])
        return row is not None and (row.name, row.kind) == ("watched", "ended")

    until(accounted, "the accounting", 60, lambda: str(asked.past(600, record.ids)))
    assert Watch(lambda: asked).state(folder).why == "in Slurm"


@pytest.fixture
def running(tmp_path: Path) -> Iterator[tuple[Desk, RunFolder, process.Child[bytes]]]:
    """A run without Slurm, as its launcher has it."""
    desk = Desk(tmp_path, dict(os.environ) | {"SLIPWORKS_CLUSTER": "local"})
    desk.env["SLIPWORKS_CLUSTER"] = "local"
    folder = desk.written(FOREVER, attended=True)
    launcher = (
        "import sys, time; from pathlib import Path; from runner import submission, launch\n"
        "from runner.job import Job; from runner.runs import RunFolder\n"
        "folder = RunFolder(Path(sys.argv[1]))\n"
        "plan = launch.read(folder.launch); job = Job(name='watched', run='x', ray=False)\n"
        "sys.exit(submission.run(folder, job, plan, [sys.argv[2:]], time.time()))\n"
    )
    argv = [sys.executable, "-c", launcher, str(folder.root), *node(folder), "--rank", "0"]
    child = process.start(argv, what="launch", log=tmp_path / "launcher", env=desk.env, cwd=ROOT)
    yield desk, folder, child
    if child.poll() is None:
        process.end_group(child, 20)


def test_a_local_run(running: tuple[Desk, RunFolder, process.Child[bytes]], tmp_path: Path) -> None:
    desk, folder, launcher = running
    following = desk.start("logs", "--follow", "last", log=tmp_path / "followed")
    until(
        lambda: "it's here" in (tmp_path / "followed").read_text(), "its log", 60,
        (tmp_path / "launcher").read_text,
    )  # fmt: skip
    told = desk.type("status", "last")
    assert told.code == 0 and "running: command started" in told.out and not told.err, told
    entered = desk.type("attach", "last", "--", "sh", "-c", "echo $A_VALUE; exit 4")
    assert (entered.code, entered.out) == (4, "it's here\n"), entered
    assert desk.type("cancel", "last").code == 0
    assert launcher.wait(60) == 143
    assert following.wait(60) == 0 and "ending" in (tmp_path / "followed").read_text()
    assert desk.status(folder)["state"] == "cancelled"
    assert not folder.secrets.exists()
