"""Sandboxes as a part of a job: what a job may say, and what sbatch and the nodes are told."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from msgspec import json

from kit.errors import InvalidFileError, UnknownNameError, UnsupportedError, UsageError
from kit.shell import quote
from runner import cli, submission
from runner import job as jobs
from runner.job import Job
from runner.launch import Launch, Service
from runner.meeting import Late
from runner.runs import Attempt, RunFolder
from runner.sandboxes import in_attempt, in_job
from slurm import answers, clusters, script
from slurm.clusters import Cluster as Profile
from slurm.script import Servers
from tests.unit import parts_node

GENERIC = clusters.load("generic")
FASRC = clusters.load("fasrc")
LAYERS = Path("/cache/layers/slipworks-1"), Path("/cache/layers/agent-server-1.sqfs")


def loaded(tmp_path: Path, more: str = "sandboxes: {cpus: 8}\n") -> Job:
    (tmp_path / "job.yaml").write_text("name: j\narch: cpu\nrun: train\n" + more)
    return jobs.load(tmp_path / "job.yaml")


def servers(job: Job, cluster: Profile = FASRC) -> Servers:
    return in_job.servers(job, cluster, "site", Path("/runs/r"), *LAYERS, Path("/cache"))


# What a job says


@pytest.mark.parametrize(
    ("said", "line", "complaint"),
    [
        ("sandboxes: {nodes: 1}", 4, "cpus"),
        ("sandboxes:\n  cpus: 8\n  nodes: 0", 6, "found 0 nodes, expected 1 or more"),
        (
            "sandboxes:\n  cpus: 4\n  server: {reserve: 2}",
            5,
            "expected more: 4 CPUs of a slot and 2 in reserve",
        ),
        ("sandboxes:\n  cpus: 8\n  server:\n    listen: 0.0.0.0", 7, "it follows from the job's nodes"),
        ("sandboxes:\n  cpus: 8\n  server:\n    engine: podman", 7, "sandboxes.engine says it"),
        ("sandboxes:\n  cpus: 8\n  engine: docker", 6, "docker"),
        ("sandboxes:\n  cpus: 8\n  root: disk", 6, "expected an absolute path"),
        ("sandboxes:\n  cpus: 8\n  memory: much", 6, "expected a number such as 64G"),
        ("sandboxes:\n  cpus: 8\n  sbatch:\n    mem: 4G", 7, "is said by sandboxes.memory: alone"),
        ("sandboxes:\n  cpus: 8\n  sbatch:\n    output: x", 7, "both parts are one job"),
        ("sandboxes:\n  cpus: 8\n  sbatch:\n    array: 1-2", 7, "cannot be used here"),
        ("env: {SLIPWORKS_SANDBOX_URL: x}\nsandboxes: {cpus: 8}", 5, "which its own sandboxes say"),
        ("sandboxes: {cpus: 8, cpu: 3}", 4, "unknown key 'cpu'"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path: Path, said: str, line: int, complaint: str) -> None:
    with pytest.raises((InvalidFileError, UnknownNameError)) as wrong:
        loaded(tmp_path, said + "\n")
    assert f"job.yaml:{line}" in wrong.value.message and complaint in wrong.value.message


def test_the_second_part_is_asked_for_on_the_partition_without_gpus(tmp_path: Path) -> None:
    said = (
        "time: '2:00:00'\ngpus: 1\nwarn: 60\nsandboxes: {cpus: 8, nodes: 3, memory: 64G, sbatch: {qos: q}}\n"
    )
    options = servers(loaded(tmp_path, said)).options
    assert options == {
        "job-name": "j", "partition": "test", "nodes": 3, "ntasks-per-node": 1, "time": "2:00:00",
        "cpus-per-task": "8", "mem": "64G", "qos": "q",
    }  # fmt: skip
    own = servers(loaded(tmp_path, "sandboxes: {cpus: 8, partition: other}\n"), GENERIC)
    assert own.options["partition"] == "other"
    with pytest.raises(UsageError, match="knows no partition of nodes without GPUs"):
        servers(loaded(tmp_path), GENERIC)


def test_both_parts_have_one_limit(tmp_path: Path) -> None:
    job = loaded(tmp_path, "sbatch: {partition: x}\ntime: 30\nsandboxes: {cpus: 8}\n")
    assert servers(job).options["time"] == "30"


def test_the_engine_is_the_jobs_or_the_clusters(tmp_path: Path) -> None:
    assert servers(loaded(tmp_path)).engine == "podman"
    assert servers(loaded(tmp_path, "sandboxes: {cpus: 8, engine: apptainer}\n")).engine == "apptainer"
    docker = Profile(summary="s", scheduler="slurm", engines=("docker",), cpu_partition="cpu")
    with pytest.raises(UnsupportedError, match="need one of podman, apptainer"):
        servers(loaded(tmp_path), docker)


def test_the_server_is_told_what_the_job_says_and_no_key(tmp_path: Path) -> None:
    words = servers(loaded(tmp_path, "sandboxes: {cpus: 8, server: {cpus: 2, queue: 60}}\n")).words
    assert words[:3] == ("sandbox", "serve", "--set")
    assert json.decode(words[3]) == {
        "engine": "podman", "listen": "0.0.0.0", "cpus": 2, "queue": 60.0, "layer": str(LAYERS[1]),
    }  # fmt: skip


def test_a_job_without_sandboxes_has_one_part() -> None:
    batch = script.Batch(options={}, run=Path("/r"), nodes=1, container=("e",), rank_token="@")
    assert "hetjob" not in script.render(batch) and "sandbox" not in script.render(batch)


def test_slurm_names_both_parts_and_the_first_is_the_job() -> None:
    fields = {name: name for name in answers._QUEUED}
    said = "".join(
        answers.UNIT.join({**fields, "id": id, "submitted": "1", "started": "2", "ended": "3"}.values())
        + f"{answers.RECORD}\n"
        for id in ("12+0", "12+1", "13", "14_2")
    )
    assert [each.id for each in answers.queued(said)] == ["12", "13", "14_2"]
    past = {name: name for name in answers._PAST} | {"submitted": "1", "started": "2", "ended": "3"}
    text = "".join(answers.UNIT.join({**past, "id": id}.values()) + "\n" for id in ("12+0", "12+1", "13"))
    assert [each.id for each in answers.past(text)] == ["12", "13"]


# What the nodes of the first part are told


class Answering(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def attempt(tmp_path: Path) -> Attempt:
    made = Attempt(tmp_path / "attempt-1")
    (made.folder / "sandboxes").mkdir(parents=True)
    (made.folder / "sandboxes/key").write_text("k3y")
    return made


def told(attempt: Attempt, url: str, **more: object) -> dict[str, str]:
    (attempt.folder / "sandboxes/url-0").write_text(url)
    (attempt.folder / "sandboxes/url-1").write_text("http://10.0.0.2:8000")
    (attempt.folder / "sandboxes/url").write_text(url)
    launch = Launch(run_id="0", name="n", command=(), sandboxes=5.0, **more)  # type: ignore[arg-type]
    return in_attempt.variables(attempt, launch, {"no_proxy": "here"}, lambda: None)


def test_every_client_finds_the_server_by_its_own_variables(attempt: Attempt, url: str) -> None:
    assert told(attempt, url) == {
        "SLIPWORKS_SANDBOX_URL": url, "SLIPWORKS_SANDBOX_KEY": "k3y",
        "SANDBOX_REMOTE_RUNTIME_API_URL": url, "ALLHANDS_API_KEY": "k3y",
        "RUNTIME_API_URL": url, "RUNTIME_API_KEY": "k3y",
        "no_proxy": "here,10.0.0.2,127.0.0.1", "NO_PROXY": "10.0.0.2,127.0.0.1",
    }  # fmt: skip


def test_what_a_node_is_just_writing_is_no_address(attempt: Attempt, url: str) -> None:
    """On NFS it is in the folder's list for a while when it is gone already."""
    (attempt.folder / "sandboxes/url-1.123.tmp").write_text("http://10.0.0.7:80")
    (attempt.folder / "sandboxes/url-2").symlink_to("gone")
    assert told(attempt, url)["NO_PROXY"] == "10.0.0.2,127.0.0.1"


@pytest.mark.parametrize("where", ["env", "env_files", "secrets"])
def test_of_another_server_that_the_job_names_nothing_is_replaced_nor_told_our_key(
    attempt: Attempt, url: str, where: str
) -> None:
    name = "SANDBOX_REMOTE_RUNTIME_API_URL"
    found = told(attempt, url, **{where: (name,) if where == "secrets" else {name: "x"}})
    assert not {name, "ALLHANDS_API_KEY"} & set(found) and found["RUNTIME_API_KEY"] == "k3y"


def test_what_is_awaited_is_said_and_a_stop_is_heard(attempt: Attempt, url: str) -> None:
    launch = Launch(run_id="0", name="n", command=(), sandboxes=0.2)
    with pytest.raises(Late, match="the server of sandboxes on the job's other nodes"):
        in_attempt.variables(attempt, launch, {}, lambda: None)
    with pytest.raises(Late, match=f"waited 0.2 s for an answer of {url}/none"):
        told_late = Launch(run_id="0", name="n", command=(), sandboxes=0.2)
        (attempt.folder / "sandboxes/url").write_text(f"{url}/none")
        in_attempt.variables(attempt, told_late, {}, lambda: None)

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        in_attempt.variables(attempt, launch, {}, stop)
    none = Launch(run_id="0", name="n", command=())
    assert in_attempt.variables(attempt, none, {}, stop) == {}


def test_the_plan_has_how_long_nodes_wait(tmp_path: Path) -> None:
    job = loaded(tmp_path, "sandboxes: {cpus: 8, ready_within: 7}\n")
    assert submission.launch(job, GENERIC, "0badcafe").sandboxes == 7.0


def test_a_node_waits_for_the_server_before_its_command_and_services(folder: RunFolder, url: str) -> None:
    place = folder.attempt(1).folder / "sandboxes"
    place.mkdir()
    (place / "key").write_text("k3y")
    (place / "url").write_text(url)
    says = "echo $0 finds $RUNTIME_API_URL by $ALLHANDS_API_KEY"
    log = quote(str(folder.attempt(1).service_log("beside", 0)))
    heard = f"until grep -q finds {log}; do sleep 0.02; done"
    beside = Service(name="beside", run=("sh", "-c", f"{says}; sleep 60", "beside"))
    parts_node.job(folder, "sh", "-c", f"{heard}; {says}", "the command", sandboxes=20.0, services=(beside,))
    code, said = parts_node.alone(folder)
    assert code == 0 and f"the command finds {url} by k3y" in said, said
    assert folder.attempt(1).service_log("beside", 0).read_text() == f"beside finds {url} by k3y\n"
    assert "k3y" not in folder.launch.read_text() + folder.attempt(1).facts(0).read_text()
    (place / "url").unlink()
    parts_node.job(folder, "echo", "never", sandboxes=0.3)
    (folder.attempt(1).meeting / "ended-0").unlink()
    code, said = parts_node.alone(folder)
    assert code == 50 and "for the server of sandboxes on the job's other nodes" in said, said
    assert "never" not in said


def test_a_machine_without_slurm_gives_a_job_no_sandboxes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded(tmp_path)
    code = cli.main(["submit", str(tmp_path / "job.yaml"), "--cluster", "local", "--dry-run"])
    assert code == UnsupportedError.code
    assert "there is no Slurm here, and only its nodes give a job sandboxes" in capsys.readouterr().err
