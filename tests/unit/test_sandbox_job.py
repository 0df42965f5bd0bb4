"""Sandboxes as a part of a job: what a job may say, what sbatch and the nodes are told, and what the batch
script does on nodes for sandboxes, run by bash with stand-ins."""

from __future__ import annotations

import os
import signal
import stat
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from msgspec import json, structs

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
from tests.unit import parts_node, parts_script
from tests.unit.parts_script import Cluster, send, until

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


# The batch script's part

LOADER = """#!/bin/bash
# Stands for the layer's loader: what it would start is a server that says its address and ends at TERM.
printf '%s\\0' "$@" >>"$RECORD/server"
printf '%s\\n' "$SLIPWORKS_CACHE" >>"$RECORD/cache"
printf '%s\\n' "$(printenv TMPDIR)" >"$RECORD/temporary"
case $* in *" sandbox stop "*) exit 0 ;; esac
while [ $# -gt 0 ]; do
    [ "$1" != --state ] || state=$2
    shift
done
stat -c '%a' "$state" "$state/key" >"$RECORD/modes"
printf '%s' "$state" >"$RECORD/state"
if [ -e "$RECORD/deaf" ]; then trap : TERM; else trap 'echo ended >>"$RECORD/server-ended"; exit 0' TERM; fi
[ ! -e "$RECORD/no-server" ] || exit 3
echo "http://$SLURMD_NODENAME:1234"
exec {nothing}<> <(:)
until [ -e "$RECORD/server-dies" ]; do read -r -t 0.02 -u "$nothing"; done
exit 9
"""


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    made = Cluster(tmp_path, tmp_path / "a run, it's")
    layer = tmp_path / "a layer"
    for path, text in (
        ("lib/ld-linux-x.so.2", LOADER),
        ("python/bin/python3.13", ""),
        ("python/bin/python3.13._pth", ""),
        ("bin/runner", ""),
    ):
        (layer / path).parent.mkdir(parents=True, exist_ok=True)
        (layer / path).write_text(text)
    (layer / "lib/ld-linux-x.so.2").chmod(0o755)
    made.program("apptainer", "#!/bin/sh\nexit 1\n")
    return made


def parted(cluster: Cluster, **more: object) -> script.Batch:
    layer = cluster.run.parent / "a layer"
    part = Servers(
        options={"partition": "cpu"}, nodes=1, cpus=4, engine="apptainer", layer=str(layer),
        words=("sandbox", "serve", "--set", "{}"), cache="/a cache", patience=60.0,
    )  # fmt: skip
    return cluster.batch(sandboxes=part, **more)


FOUND = "attempt_folder=$RUN/attempt-$attempt\nawait ../sandboxes/url\n"
"""Of a container that waits for the server."""


def test_a_server_for_the_job_and_nothing_of_it_afterwards(cluster: Cluster) -> None:
    cluster.container(FOUND + 'cp "$attempt_folder/sandboxes/key" "$RECORD/seen"\nended 7\n')
    code, said = cluster.finish(parted(cluster))
    assert code == 7, said
    layer = str(cluster.run.parent / "a layer")
    words = cluster.words("server")
    assert words[:8] == [
        "--library-path", f"{layer}/lib", f"{layer}/python/bin/python3.13", "-I", "-B",
        f"{layer}/bin/runner",
        "sandbox", "serve",
    ]  # fmt: skip
    folder = cluster.attempt("sandboxes")
    assert (folder / "url").read_text() == "http://n1:1234"
    key = (cluster.record / "seen").read_text()
    assert len(key) == 64 and int(key, 16) and key not in said and key not in " ".join(words)
    assert stat.S_IMODE((cluster.record / "seen").stat().st_mode) == 0o600
    assert (cluster.record / "modes").read_text().split() == ["700", "600"]
    assert (cluster.record / "cache").read_text() == "/a cache\n"
    assert (cluster.record / "server-ended").read_text() == "ended\n", "by a TERM"
    assert not Path((cluster.record / "state").read_text()).exists() and not (folder / "key").exists()
    srun = cluster.words("srun")
    assert {"--het-group=0", "--het-group=1", "--cpus-per-task=4"} <= set(srun)


def test_a_server_that_dies_ends_the_job_and_one_that_does_not_begin_too(cluster: Cluster) -> None:
    cluster.container(FOUND + 'touch "$RECORD/server-dies"\nawait stop\nended 143\n')
    code, said = cluster.finish(parted(cluster))
    why = cluster.attempt("meeting/stop").read_text()
    assert code == 143 and "has lost a sandbox server, which ended with exit code 9" in why, said
    assert not cluster.attempt("sandboxes/key").exists()
    (cluster.record / "server-dies").unlink()
    (cluster.record / "no-server").touch()
    cluster.container("await stop\nended 143\n")
    code, said = cluster.finish(parted(cluster))
    assert code == 143, said
    assert "ended with exit code 3: see" in cluster.attempt("meeting/stop", 2).read_text()


def test_several_nodes_are_asked_through_one_address(cluster: Cluster) -> None:
    cluster.container(FOUND + "ended 0\n")
    batch = parted(cluster)
    assert batch.sandboxes
    code, said = cluster.finish(structs.replace(batch, sandboxes=structs.replace(batch.sandboxes, nodes=2)))
    assert code == 0, said
    words = cluster.words("server")
    assert words.count("serve") == 3
    fronts = [words[place + 1] for place, word in enumerate(words) if word == "--front"]
    assert fronts == ["http://n1:1234", "http://n2:1234"], "of both nodes, once"
    assert (cluster.record / "server-ended").read_text() == "ended\n" * 3
    assert [cluster.attempt(f"sandboxes/url-{rank}").read_text() for rank in (0, 1)] == fronts


def test_deaf_servers_have_one_deadline_that_leaves_time_for_what_they_left(cluster: Cluster) -> None:
    """Slurm kills 30 s after its TERM. Two servers are on the first node: its own, and what stands before."""
    (cluster.record / "deaf").touch()
    cluster.container(FOUND + "ended 0\n")
    batch = parted(cluster)
    assert batch.sandboxes
    asked = structs.replace(batch.sandboxes, nodes=2)
    began = time.monotonic()
    code, said = cluster.finish(structs.replace(batch, sandboxes=asked))
    assert code == 0 and 10 < time.monotonic() - began < 28, said
    words = cluster.words("server")
    ends = [words[place : place + 5] for place, word in enumerate(words) if word == "stop"]
    assert [each[:4] for each in ends] == [["stop", "--all", "--grace", "1"]] * 2, "on each node"
    assert not Path((cluster.record / "state").read_text()).exists()


def test_files_of_the_users_other_ids_do_not_stay(cluster: Cluster) -> None:
    """Of a sandbox by Apptainer, whose namespace died with its server."""
    mine = 'case $* in *slipworks-7-*) [ -n "${INSIDE-}" ] || exit 1 ;; esac'
    cluster.program("rm", f'#!/bin/bash\n{mine}\nexec /bin/rm "$@"\n')
    inside = '#!/bin/bash\nwhile [ "$1" != -- ]; do shift; done\nshift\nINSIDE=yes exec "$@"\n'
    cluster.program("unshare", inside)
    cluster.container(FOUND + "ended 0\n")
    code, said = cluster.finish(parted(cluster))
    assert code == 0 and " is left" not in said, said
    assert not Path((cluster.record / "state").read_text()).exists()


def test_what_programs_keep_for_a_while_is_at_root_too(cluster: Cluster) -> None:
    """Layers that podman pulls, say, are in /var/tmp where nothing else is said."""
    cluster.program("srun", parts_script.SRUN.replace("#!/bin/bash", "#!/bin/bash\nunset TMPDIR", 1))
    cluster.container(FOUND + "ended 0\n")
    (root := cluster.record / "a root").mkdir()
    batch = parted(cluster)
    assert batch.sandboxes
    asked = structs.replace(batch.sandboxes, root=str(root))
    code, said = cluster.finish(structs.replace(batch, sandboxes=asked))
    assert code == 0, said
    assert (cluster.record / "temporary").read_text() == f"{root}\n"
    assert Path((cluster.record / "state").read_text()).parent == root


def test_a_node_without_the_engine_says_so(cluster: Cluster) -> None:
    cluster.container("await stop\nended 143\n")
    batch = parted(cluster)
    assert batch.sandboxes
    lacking = structs.replace(batch, sandboxes=structs.replace(batch.sandboxes, engine="no-engine"))
    code, said = cluster.finish(lacking)
    assert code == 143, said
    assert "has no no-engine on its PATH" in cluster.attempt("meeting/stop").read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_job_that_is_told_to_end_ends_its_servers(cluster: Cluster, number: signal.Signals) -> None:
    cluster.container(FOUND + 'touch "$RECORD/runs"\nawait stop\nended 143\n')
    job = cluster.start(parted(cluster))
    until(lambda: (cluster.record / "runs").exists(), "the job to run")
    send(job, number)
    said = os.fsdecode(job.communicate(timeout=60)[0])
    assert job.returncode == 143, said
    assert (cluster.record / "server-ended").read_text() == "ended\n", said
    assert not Path((cluster.record / "state").read_text()).exists()


def test_a_machine_without_slurm_gives_a_job_no_sandboxes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded(tmp_path)
    code = cli.main(["submit", str(tmp_path / "job.yaml"), "--cluster", "local", "--dry-run"])
    assert code == UnsupportedError.code
    assert "there is no Slurm here, and only its nodes give a job sandboxes" in capsys.readouterr().err
