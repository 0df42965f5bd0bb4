"""What the batch script does, run by bash with stand-ins for Slurm and the engine."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pytest
from msgspec import json

from tests.unit.parts_script import RANK, Cluster, alive, send, until


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path, tmp_path / "a run, it's")


def test_one_srun_and_a_container_a_node(cluster: Cluster) -> None:
    batch = cluster.batch(nodes=3, container=("engine", "run", f"--name=x-{RANK}-y", "image", "node"))
    code, said = cluster.finish(batch, SLURM_CPUS_PER_TASK="4")
    assert code == 0, said
    srun = cluster.words("srun")
    assert srun.count("bash") == 1
    assert {"--nodes=3", "--ntasks=3", "--ntasks-per-node=1", "--export=ALL", "--kill-on-bad-exit=0"} <= {
        *srun
    }
    for rank in range(3):
        expected = ["run", f"--name=x-{rank}-y", "image", "node", "--attempt", "1", "--rank", str(rank)]
        assert cluster.words(f"engine-{rank}") == ["engine", *expected]
    facts = dict(line.split("=", 1) for line in cluster.attempt("slurm").read_text().splitlines())
    assert facts == {"job_id": "7", "restart_count": "0", "job": "1", "nodes": "3", "hosts": "n1 n2 n3"}


def test_the_step_says_what_slurm_said(cluster: Cluster) -> None:
    hostile = "a=b\n$(touch x) '\"\\ é"
    code, said = cluster.finish(
        cluster.batch(nodes=2), SLURM_CPUS_PER_TASK="4", SLURM_AWKWARD=hostile, SECRET="x",
        CUDA_VISIBLE_DEVICES="MIG-1,MIG-2", NVIDIA_VISIBLE_DEVICES="",
    )  # fmt: skip
    assert code == 0, said
    for rank in range(2):
        raw = cluster.attempt(f"step-{rank}").read_bytes()
        assert raw.endswith(b"\0")
        step = dict(pair.split("=", 1) for pair in raw.decode().split("\0")[:-1])
        assert step["SLURM_NODEID"] == str(rank)
        assert step["SLURMD_NODENAME"] == f"n{rank + 1}"
        assert step["SLURM_AWKWARD"] == hostile
        assert step["CUDA_VISIBLE_DEVICES"] == "MIG-1,MIG-2"
        assert step["NVIDIA_VISIBLE_DEVICES"] == ""
        assert not {"SECRET", "PATH", "GPU_DEVICE_ORDINAL"} & set(step)


def test_phases_are_timed(cluster: Cluster) -> None:
    assert cluster.finish(cluster.batch())[0] == 0
    lines = [json.decode(line) for name in ("job", "step-0")
             for line in cluster.attempt(f"events-{name}.jsonl").read_bytes().splitlines()]  # fmt: skip
    assert [(line["who"], line["event"]) for line in lines] == [
        ("job", "job started"), ("job", "job ended"), ("node 0", "step started"),
    ]  # fmt: skip
    assert all(abs(line["at"] - time.time()) < 60 for line in lines)


def test_what_it_writes_is_the_owners_alone(cluster: Cluster) -> None:
    assert cluster.finish(cluster.batch())[0] == 0
    found = [path for path in (cluster.run / "attempt-1").rglob("*")] + [cluster.run / "attempt-1"]
    assert len(found) > 5
    assert not [path for path in found if path.stat().st_mode & 0o077]


@pytest.mark.parametrize(
    ("container", "code"),
    [
        ("ended 0; exit 7", 0),  # the client's own trouble after the end
        ("ended 3; exit 3", 3),
        ("ended 143", 143),
        ("exit 0", 50),  # it ended without a word: never taken for success
        ("exit 4", 4),
        ("kill -KILL $$", 137),
        ("printf nonsense >ended-0", 50),
        ('printf \'{"why":"x","code":0}\' >ended-0', 50),
    ],
)
def test_exit_codes(cluster: Cluster, container: str, code: int) -> None:
    cluster.container(container)
    found, said = cluster.finish(cluster.batch())
    assert found == code, said
    assert f"attempt 1 ended with exit code {code}" in cluster.attempt("job.log").read_text()


def test_a_step_that_slurm_refuses(cluster: Cluster) -> None:
    cluster.answer("no-srun", "")
    code, said = cluster.finish(cluster.batch())
    assert code == 1
    assert "node 0 left no result" in said


def test_a_container_that_dies_tells_the_others(cluster: Cluster) -> None:
    cluster.container("[ $rank = 1 ] && exit 125; await ended-1; ended 50")
    assert cluster.finish(cluster.batch(nodes=2))[0] == 50
    told = json.decode(cluster.attempt("meeting/ended-1").read_bytes())
    assert told["code"] == 125
    assert "node 1 (n2)" in told["why"]


def test_a_node_without_the_engine_is_named(cluster: Cluster) -> None:
    code, _ = cluster.finish(cluster.batch(container=("no-such-engine", "node")))
    assert code == 20
    told = json.decode(cluster.attempt("meeting/ended-0").read_bytes())
    assert "node 0 (n1) has no no-such-engine on its PATH" in told["why"]
    assert told["why"] in cluster.attempt("node-0.log").read_text()


def test_another_number_of_nodes_is_refused(cluster: Cluster) -> None:
    cluster.answer("hosts", "n1\nn2\n")
    code, said = cluster.finish(cluster.batch(nodes=3))
    assert code == 50
    assert "expected 3 node(s)" in said
    assert not cluster.words("srun")
    assert not (cluster.run / "attempt-1").exists()


def test_a_run_folder_that_is_not_seen(cluster: Cluster) -> None:
    cluster.start(cluster.batch()).communicate(timeout=60)
    spooled = cluster.run.with_name("spooled")
    (cluster.run / "job.sbatch").rename(spooled)
    cluster.run.rename(cluster.run.with_name("away"))
    env = {"PATH": "/usr/bin:/bin", "SLURMD_NODENAME": "n1"}
    done = subprocess.run(["bash", spooled], capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 50
    assert "n1 does not see the run folder" in done.stderr


def test_a_node_that_does_not_see_the_run_folder_is_named(cluster: Cluster) -> None:
    """srun's second task gets a script's path that is not there."""
    srun = (cluster.bin / "srun").read_text()
    blind = srun.replace('"$@" &', '"${@:1:2}" "${@:3:1}" "${place[rank]}" "${@:5}" &')
    assert blind != srun
    cluster.program("srun", blind.replace("tasks=()", 'tasks=(); place=("$4" /nowhere/job.sbatch)'))
    cluster.container("await stop; ended 143")
    code, said = cluster.finish(cluster.batch(nodes=2))
    assert code == 50
    assert "node 1 (n2) does not see /nowhere/job.sbatch" in said
    assert "node 1 (n2)" in cluster.attempt("meeting/stop").read_text()


class TestAttempts:
    def test_each_start_has_its_own(self, cluster: Cluster) -> None:
        cluster.container("ended 1")
        for number in (1, 2, 3):
            assert cluster.finish(cluster.batch(), SLURM_RESTART_COUNT=str(number - 1))[0] == 1
            assert f"restart_count={number - 1}\n" in cluster.attempt("slurm", number).read_text()
        assert not (cluster.run / "attempt-4").exists()

    def test_the_first_free_number(self, cluster: Cluster) -> None:
        for number in (1, 2, 4):
            (cluster.run / f"attempt-{number}").mkdir()
        assert cluster.finish(cluster.batch())[0] == 0
        assert cluster.attempt("meeting/ended-0", 3).exists()

    def test_a_folder_that_cannot_be_made(self, cluster: Cluster) -> None:
        (cluster.run / "attempt-1").write_text("in the way")
        code, said = cluster.finish(cluster.batch())
        assert code == 50
        assert "attempt-1" in said

    def test_finished_runs_end_at_once(self, cluster: Cluster) -> None:
        (cluster.run / "finished").write_text("succeeded")
        (cluster.run / "secrets.json").write_text("{}")
        batch = cluster.batch(restarts=3, secrets=(cluster.run / "secrets.json",))
        code, said = cluster.finish(batch, "2")
        assert (code, "succeeded" in said) == (0, True)
        assert not cluster.words("srun")
        assert not (cluster.run / "attempt-1").exists()
        assert not (cluster.run / "secrets.json").exists()


class TestSecrets:
    @pytest.fixture
    def secrets(self, cluster: Cluster) -> tuple[Path, Path]:
        paths = cluster.run / "secrets.json", cluster.run / "-ray $(token)"
        for path in paths:
            path.write_text("x")
        return paths

    @pytest.mark.parametrize(
        ("restarts", "number", "container", "stay"),
        [
            (0, (), "ended 1", False),
            (0, (), "ended 0", False),
            (2, ("1",), "ended 1", True),
            (2, ("2",), "ended 1", True),
            (2, ("3",), "ended 1", False),
            (2, ("1",), "printf succeeded >../../finished; ended 0", False),
        ],
    )
    def test_stay_while_an_attempt_may_follow(
        self, cluster: Cluster, secrets: tuple[Path, Path], restarts: int, number: tuple[str, ...],
        container: str, stay: bool,
    ) -> None:  # fmt: skip
        cluster.container(container)
        cluster.finish(cluster.batch(restarts=restarts, secrets=secrets), *number)
        assert [path.exists() for path in secrets] == [stay, stay]

    @pytest.mark.parametrize(("restarts", "stay"), [(0, False), (1, True)])
    def test_after_a_signal_slurm_is_asked_whether_the_job_comes_again(
        self, cluster: Cluster, secrets: tuple[Path, Path], restarts: int, stay: bool
    ) -> None:
        cluster.answer("job", f"JobId=7 Requeue=1 Restarts={restarts} BatchFlag=1\n")
        cluster.container("await stop; ended 143")
        job = cluster.start(cluster.batch(secrets=secrets))
        until(lambda: cluster.words("engine-0"), "the container")
        send(job, signal.SIGTERM)
        job.communicate(timeout=30)
        assert job.returncode == 143
        assert [path.exists() for path in secrets] == [stay, stay]

    def test_a_job_that_cannot_start_keeps_none(self, cluster: Cluster, secrets: tuple[Path, Path]) -> None:
        cluster.answer("hosts", "n1\nn2\n")
        assert cluster.finish(cluster.batch(secrets=secrets))[0] == 50
        assert not any(path.exists() for path in secrets)


def test_success_cancels_what_comes_after(cluster: Cluster) -> None:
    cluster.container("printf succeeded >../../finished; ended 0")
    (cluster.run / "chain").write_text("6\n7\n8\n$(touch x)\n9")
    assert cluster.finish(cluster.batch(restarts=3), "2")[0] == 0
    assert (cluster.record / "scancel").read_text() == "8\n9\n"


def test_failure_cancels_nothing(cluster: Cluster) -> None:
    cluster.container("ended 1")
    (cluster.run / "chain").write_text("6\n7\n8\n")
    assert cluster.finish(cluster.batch(restarts=3), "2")[0] == 1
    assert not (cluster.record / "scancel").exists()


class TestSignals:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
    def test_the_nodes_are_asked_to_end_and_awaited(self, cluster: Cluster, number: signal.Signals) -> None:
        cluster.container('await stop; printf late >"$RECORD/last"; ended 143')
        job = cluster.start(cluster.batch())
        until(lambda: cluster.words("engine-0"), "the container")
        send(job, number)
        job.communicate(timeout=30)
        assert job.returncode == 143
        assert (cluster.record / "last").read_text() == "late"
        assert number.name in cluster.attempt("meeting/stop").read_text()
        assert not alive(job.pid)

    def test_the_warning(self, cluster: Cluster) -> None:
        cluster.container("await warning; await more; ended 9")
        job = cluster.start(cluster.batch())
        until(lambda: cluster.words("engine-0"), "the container")
        send(job, signal.SIGUSR2)
        until(cluster.attempt("meeting/warning").exists, "the warning")
        for _ in range(3):
            send(job, signal.SIGUSR2)
        assert job.poll() is None
        cluster.attempt("meeting/more").write_text("")
        job.communicate(timeout=30)
        assert job.returncode == 9
        assert not cluster.attempt("meeting/stop").exists()

    def test_a_term_to_every_process_as_slurm_sends_it(self, cluster: Cluster) -> None:
        """srun ends late, and the container hears of it twice: from Slurm and from its node."""
        cluster.answer("patient-srun", "")
        cluster.container('trap ": >\\"$RECORD/heard\\"" TERM; : >"$RECORD/ready"; await stop; ended 143')
        job = cluster.start(cluster.batch())
        until((cluster.record / "ready").exists, "the container")
        send(job, signal.SIGTERM, group=True)
        job.communicate(timeout=30)
        assert job.returncode == 143
        assert (cluster.record / "heard").exists()
        assert cluster.attempt("meeting/ended-0").read_text() == '{"code":143}'

    def test_before_the_nodes_are_started(self, cluster: Cluster) -> None:
        cluster.program("mktemp", "#!/bin/sh\n")
        cluster.program("module", "#!/bin/sh\nkill -TERM $PPID\n")
        code, _ = cluster.finish(cluster.batch(modules=("x",)))
        assert code == 143
        assert not cluster.words("srun")


class TestPatience:
    def test_nodes_that_do_not_end_are_ended(self, cluster: Cluster) -> None:
        """Node 1 goes on, alive, after the head has ended."""
        cluster.container(
            "[ $rank = 0 ] && { await alive-1; ended 4; exit 4; }\n"
            'while [ -d "$RECORD" ]; do echo $((n += 1)) >alive-1; read -r -t 0.1 <> <(:); done'
        )
        began = time.monotonic()
        job = cluster.start(cluster.batch(nodes=2, patience=3.0))
        said = job.communicate(timeout=40)[0].decode()
        assert job.returncode == 4
        assert 3 <= time.monotonic() - began < 9
        assert "not all nodes have ended after 3 s" in said
        assert (cluster.record / "srun-ended").exists()

    def test_nodes_that_end_in_time_are_left_alone(self, cluster: Cluster) -> None:
        cluster.container(
            "[ $rank = 0 ] && { ended 4; exit 4; }; await ended-0; read -r -t 2 <> <(:); ended 0"
        )
        job = cluster.start(cluster.batch(nodes=2, patience=20.0))
        job.communicate(timeout=40)
        assert job.returncode == 4
        assert not (cluster.record / "srun-ended").exists()
        assert not alive(job.pid)

    def test_the_dead_are_not_waited_for(self, cluster: Cluster) -> None:
        """Node 1 gives no sign of life any more: its srun would wait for the whole patience."""
        cluster.container("[ $rank = 0 ] && { ended 50; exit 50; }; echo 1 >alive-1; await never")
        began = time.monotonic()
        job = cluster.start(cluster.batch(nodes=2, patience=100.0))
        job.communicate(timeout=60)
        assert job.returncode == 50
        assert time.monotonic() - began < 20


class TestModules:
    def test_are_loaded_in_their_order_and_count_on_the_nodes(self, cluster: Cluster) -> None:
        cluster.program("module", '#!/bin/sh\nprintf "%s\\n" "$*" >>"$RECORD/modules"\n')
        assert cluster.finish(cluster.batch(modules=("gcc/12", "it's $(x)")))[0] == 0
        assert (cluster.record / "modules").read_text() == "load gcc/12\nload it's $(x)\n"

    def test_one_that_is_missing_ends_the_job(self, cluster: Cluster) -> None:
        cluster.program("module", "#!/bin/sh\nexit 1\n")
        code, said = cluster.finish(cluster.batch(modules=("gcc/12",)))
        assert code == 20
        assert "n1 cannot load the module gcc/12" in said
        assert not cluster.words("srun")

    def test_a_host_without_the_command(self, cluster: Cluster) -> None:
        code, said = cluster.finish(cluster.batch(modules=("gcc/12",)))
        assert code == 0
        assert "n1 has no `module` command: gcc/12 is not loaded" in said
