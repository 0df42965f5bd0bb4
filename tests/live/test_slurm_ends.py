"""How jobs end on a real Slurm before they are done: `runner submit` by an ordinary user, with Apptainer."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from msgspec import json

from runner.runs import RunFolder
from tests.live.parts_jobs import Login, Told, logs, said, traces
from tests.live.parts_slurm_daemons import until

pytestmark = [pytest.mark.live, pytest.mark.timeout(600)]

STEPS = """
name: steps
arch: cpu
ray: false
time: "1"
warn: 20
restarts: 2
checkpoints: true
run: |
  cd "$SLIPWORKS_CHECKPOINTS"
  step=$(cat step 2>/dev/null || echo 0)
  echo "begins at step $step"
  trap 'echo "warned at step $step"' USR2
  more=$([ "$step" = 0 ] && echo 10000 || echo 3)
  while [ "$more" -gt 0 ]; do
    step=$((step + 1)) more=$((more - 1))
    echo "$step" >.step
    mv .step step
    sleep 0.5 & wait $! || :
  done
  echo "ends at step $step"
"""


@pytest.fixture(scope="module")
def timed(user: Login) -> Told:
    """A job that runs into its time limit while other tests go on."""
    return user.submit(STEPS)


@pytest.fixture(autouse=True)
def nothing_stays(user: Login) -> Iterator[None]:
    """What a test that failed has left in the queue is not the next one's."""
    yield
    user.slurm.run("scancel", "--name=gone,again,chain,lasting", check=False)


def test_scancel_leaves_nothing(user: Login) -> None:
    """Of Ray, a service, and a process that left the command's session: no process, mount, socket or file."""
    user.slurm.quiet()
    before = {name: traces(user.slurm, name) for name in user.slurm.nodes}
    told = user.submit(
        "name: gone\narch: cpu\nnodes: 2\nray: {num_cpus: 1}\nsecrets: [A_KEY]\n"
        "services: [{name: web, run: [python, -m, http.server, '18473'], ready: 'port:18473'}]\n"
        "run: setsid sleep 1001 & python -c 'import ray; ray.init()'; echo up; sleep 1000\n",
        A_KEY="s3cret",
    )
    said(told.folder, "\nup\n", 240)
    during = {name: traces(user.slurm, name) for name in user.slurm.nodes}
    for name in user.slurm.nodes:
        new = during[name].since(before[name])
        assert "port 18473" in new and any("plasma" in each or "raylet" in each for each in new), new
    user.slurm.run("scancel", str(told.jobs[0]))
    assert user.ended(told, 60) == "CANCELLED"
    rest = {name: ["?"] for name in user.slurm.nodes}

    def cleared() -> bool:
        for name in user.slurm.nodes:
            rest[name] = user.slurm.processes(name) + traces(user.slurm, name).since(before[name])
        return not any(rest.values())

    until(cleared, "the nodes to be as they were", 60, lambda: f"{rest}\n{logs(told.folder)}")
    assert not told.folder.secrets.exists() and not told.folder.token.exists()
    assert "attempt 1 ended with exit code 143" in logs(told.folder)


def test_scancel_lets_the_command_end_in_order(user: Login) -> None:
    """Slurm's TERM goes to every process of a step: to those, too, by which the image is mounted."""
    told = user.submit(
        "name: gone\narch: cpu\nray: false\ncheckpoints: true\n"
        "run: |\n  trap 'ls /opt/stack/bin | wc -l >/checkpoints/orderly; exit 3' TERM\n"
        "  echo up; while :; do sleep 0.2; done\n"
    )
    said(told.folder, "\nup\n", 60)
    user.slurm.run("scancel", str(told.jobs[0]))
    assert user.ended(told, 60) == "CANCELLED"
    user.slurm.quiet()
    saved = list(told.folder.root.parent.parent.rglob("checkpoints/*/orderly"))
    assert len(saved) == 1 and int(saved[0].read_text()) > 10, logs(told.folder)
    assert "ending: " in logs(told.folder)


def test_requeue_begins_a_new_attempt(user: Login, timed: Told) -> None:
    told = user.submit(
        "name: again\narch: cpu\nray: false\nsecrets: [A_KEY]\n"
        'run: "echo the key is $A_KEY | tr y Y; [ -e /slipworks-run/go ] || sleep 1000"\n',
        A_KEY="s3cret",
    )
    job, folder = told.jobs[0], told.folder
    said(folder, "the keY is")
    user.slurm.run("scontrol", "requeue", str(job))
    until(lambda: user.slurm.state(job) == "PENDING", "the job to be queued again", 60, lambda: logs(folder))
    (folder.root / "go").touch()
    user.slurm.begin_anew(job)
    assert user.ended(told, 200) == "COMPLETED", logs(folder)
    assert len(folder.attempts()) == 2
    second = folder.attempt(2)
    assert "restart_count=1\n" in (second.folder / "slurm").read_text()
    assert "the keY is" in second.log(0).read_text()
    assert not folder.secrets.exists()


def test_cancel_ends_the_whole_chain(user: Login) -> None:
    told = user.submit("name: chain\narch: cpu\nray: false\nrestarts: 2\nrun: echo here; exec sleep 1000\n")
    said(told.folder, "here\n")
    done = user.type("cancel", told.folder.run_id)
    assert done.code == 0, done.err
    for job in told.jobs:
        assert user.slurm.wait_for(job) == "CANCELLED", logs(told.folder)
    assert told.folder.finished.read_text() == "cancelled\n"
    assert len(told.folder.attempts()) == 1


def test_a_job_that_ran_out_of_time_goes_on(user: Login, timed: Told) -> None:
    """The next of its chain counts on from its last step; the one after that has nothing to do."""
    folder = timed.folder
    assert user.ended(timed, 200) == "TIMEOUT", logs(folder)
    assert user.slurm.wait_for(timed.jobs[1], seconds=120) == "COMPLETED", logs(folder)
    assert user.slurm.wait_for(timed.jobs[2]) == "CANCELLED"
    first, second = (folder.attempt(number).log(0).read_text() for number in (1, 2))
    assert "begins at step 0\n" in first and "warned at step " in first and "ends" not in first, first
    step = int(second.partition("begins at step ")[2].split()[0])
    assert step > 50 and f"ends at step {step + 3}\n" in second, (first, second)
    assert folder.finished.read_text() == "succeeded\n"
    assert not user.slurm.run(
        "squeue", "--noheader", "--me", user=user.user.name if user.user else None
    ).stdout


def hosts(folder: RunFolder) -> list[str]:
    return (folder.attempt(1).folder / "slurm").read_text().split("hosts=")[1].split()


LASTING = """
name: lasting
arch: cpu
nodes: 2
ray: false
sbatch: {no-requeue: true}
run: echo "the last word of $SLIPWORKS_RANK"; exec sleep 1000
"""


@pytest.mark.parametrize(
    ("rank", "options", "state"),
    [(1, "no-requeue", "FAILED"), (0, "no-requeue", "CANCELLED"), (0, "requeue", "PENDING")],
)
def test_a_node_that_dies_ends_the_job_by_name(user: Login, rank: int, options: str, state: str) -> None:
    """Within a minute, although Slurm itself sees it after SlurmdTimeout, which is five here."""
    told = user.submit(LASTING.replace("no-requeue", options))
    folder, slurm = told.folder, user.slurm
    for each in (0, 1):
        said(folder, f"the last word of {each}")
    dead = hosts(folder)[rank]
    slurm.kill_node(dead)
    killed = time.monotonic()
    try:
        other = folder.attempt(1).log(1 - rank)
        until(lambda: f"node {rank} ({dead}) failed: " in other.read_text(), "the other node's word", 60,
              lambda: logs(folder))  # fmt: skip
        story = other.read_text().partition(f"node {rank} ({dead}) failed: ")[2]
        assert "no sign of life for 20 s" in story and f"the last word of {rank}" in story, story
        slurm.quiet()
        assert json.decode((folder.attempt(1).meeting / f"ended-{1 - rank}").read_bytes())["code"] == 50
        left = 60 - (time.monotonic() - killed)
        until(lambda: slurm.state(told.jobs[0]) != "RUNNING", "the job's end", left, lambda: logs(folder))
        if rank == 1:
            assert user.code(told) == "50:0", logs(folder)
        # Until then Slurm has yet to hear that nothing runs there.
        slurm.run("scontrol", "update", f"NodeName={dead}", "State=DOWN", "Reason=killed")
        assert slurm.wait_for(told.jobs[0], state) == state, logs(folder)
        if state == "PENDING":
            assert slurm.show(told.jobs[0])["Restarts"] == "1"
            slurm.run("scancel", str(told.jobs[0]))
    finally:
        slurm.start_node(dead, 60)
        slurm.quiet()
