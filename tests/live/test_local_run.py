"""`runner submit` as a stranger types it: a real engine, the real cpu image, the real Ray."""

from __future__ import annotations

import os
import signal
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec import Struct, json

from containers import engine as engines
from kit import process
from kit.errors import LaunchError, SlipworksError
from runner import images
from runner.runs import RunFolder
from tests.live.needs import need

pytestmark = [pytest.mark.live, pytest.mark.timeout(900)]
EXAMPLE = str(Path(__file__).parents[2] / "examples/hello-grpo/job.yaml")
MAIN = "import sys; from runner.cli import main; sys.exit(main())"


@pytest.fixture(scope="module")
def engine() -> engines.Engine:
    """The first engine that runs containers here; it has the cpu image."""
    try:
        engines.detect(to_run=True)
    except SlipworksError as reason:
        need(False, reason.message)
    found = images.make("cpu", to_run=True).engine
    assert found, "it was asked for one that runs containers"
    return found


class Ended(Struct):
    code: int
    folder: RunFolder
    story: str


class Submission:
    """A `runner submit` that goes on."""

    def __init__(self, tmp: Path, engine: engines.Engine, *words: str, **env: str) -> None:
        self.out, self.err = tmp / "out", tmp / "err"
        argv = [sys.executable, "-c", MAIN, "submit", *words, "--cluster", "local", "--engine", engine.name]
        shell = ["/bin/sh", "-c", 'exec "$@" >"$0"', str(self.out), *argv]
        variables = {**os.environ, "SLIPWORKS_RUNS": str(tmp / "the runs"), **env}
        self.child = process.start(
            shell, what="submit", log=self.err, env=variables, cwd=Path(EXAMPLE).parents[2]
        )

    def ended(self, seconds: float = 300) -> Ended:
        code = self.child.wait(seconds)
        story = self.err.read_text()
        assert "Traceback" not in story, story
        return Ended(code, RunFolder(Path(self.out.read_text().splitlines()[-1])), story)

    def until(self, text: str) -> None:
        deadline = time.monotonic() + 240
        while text not in self.err.read_text():
            assert self.child.poll() is None and time.monotonic() < deadline, self.err.read_text()
            time.sleep(0.05)


Submit = Callable[..., Submission]


@pytest.fixture
def submit(tmp_path: Path, engine: engines.Engine) -> Iterator[Submit]:
    """Starts submissions; afterwards nothing of their runs is alive on this machine."""
    made: list[Submission] = []

    def start(*words: str, **env: str) -> Submission:
        folder = tmp_path / f"submission {len(made)}"
        folder.mkdir()
        made.append(Submission(folder, engine, *words, **env))
        return made[-1]

    yield start
    for submission in made:
        if submission.child.poll() is None:
            process.end_group(submission.child, 30)
        if submission.out.exists() and submission.out.read_text():
            left = alive(RunFolder(Path(submission.out.read_text().splitlines()[-1])).run_id)
            assert not left, left


def alive(run_id: str) -> list[str]:
    """Command lines on this machine, in containers too, that name the run."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if f"sw-{run_id}" in line or f"slipworks-{run_id}" in line:
                found.append(line)
    return found


def result(ended: Ended) -> dict[str, float]:
    found: dict[str, float] = json.decode(ended.folder.result.read_bytes())["throughput"]
    return found


def test_the_example_learns_on_both_nodes(submit: Submit) -> None:
    ended = submit(EXAMPLE).ended()
    assert ended.code == 0, ended.story
    assert "2 actors on 2 of 2 Ray nodes" in ended.story
    told = result(ended)
    assert told["steps"] == 60 and told["first_reward"] < 0.2 and told["last_reward"] > 0.6
    assert told["tokens_per_second"] > 0 and "tokens per second" in ended.story
    root = ended.folder.root
    assert stat.S_IMODE(root.stat().st_mode) == 0o700
    assert list(root.glob("wandb/offline-run-*/run-*.wandb"))
    assert not ended.folder.token.exists(), "the token is worth nothing now, and is gone"
    happened = [json.decode(line)["event"] for line in ended.folder.events.read_bytes().splitlines()]
    phases = ["submitted", "image ready", "node started", "ray ready", "command started", "command ended"]
    assert [each for each in dict.fromkeys(happened) if each in phases] == phases


def test_shuffled_rewards_teach_nothing(submit: Submit) -> None:
    run = "run=[python, train.py, --steps, 30, --shuffle-rewards]"
    ended = submit(EXAMPLE, run).ended()
    assert ended.code == 0, ended.story
    assert result(ended)["last_reward"] < 0.2


@pytest.mark.parametrize("code", [0, 7, 255])
def test_the_exit_code_is_the_commands(submit: Submit, code: int) -> None:
    ended = submit(EXAMPLE, "nodes=1", "ray=false", f"run=exit {code}").ended()
    assert ended.code == code, ended.story


def test_values_arrive_and_secrets_stay(submit: Submit) -> None:
    odd = "a b'c\"d$(touch x)`e`\\\n#é"
    words = (
        "nodes=1",
        "ray=false",
        "secrets=[A_KEY]",
        f"env.ODD={odd}",
        'run=printf "%s" "$ODD$A_KEY" | sha256sum',
    )
    ended = submit(EXAMPLE, *words, A_KEY="s3cret-value").ended()
    import hashlib

    assert hashlib.sha256(f"{odd}s3cret-value".encode()).hexdigest() in ended.story
    texts = [file.read_bytes() for file in ended.folder.root.rglob("*") if file.is_file()]
    assert not any(b"s3cret-value" in text for text in texts)


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_nothing(submit: Submit, sign: signal.Signals) -> None:
    going = submit(EXAMPLE, "run=[sleep, 1000]")
    going.until("running the command")
    os.kill(going.child.pid, sign)
    ended = going.ended(60)
    assert ended.code == 128 + sign, ended.story
    assert not alive(ended.folder.run_id)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_node_that_dies_ends_the_job_by_name(submit: Submit, rank: int) -> None:
    """Its container's first process is killed, as an out-of-memory killer would."""
    going = submit(EXAMPLE, "run=[sleep, 1000]")
    going.until("running the command")
    os.kill(first_process(going, rank), signal.SIGKILL)
    ended = going.ended(60)
    assert ended.code == LaunchError.code
    assert f"error: node {rank} failed: " in ended.story and "its last lines:" in ended.story


def first_process(going: Submission, rank: int) -> int:
    """`runner node` of that rank: by its environment, below none but this submission's run."""
    (runs,) = (going.err.parent / "the runs").iterdir()
    token = RunFolder(runs).run_id
    wanted = f"SLIPWORKS_RANK={rank}".encode()
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            environment = (entry / "environ").read_bytes().split(b"\0")
            seen = (entry / "root/slipworks-run/launch.json").read_text()
        except OSError:
            continue
        if wanted in environment and b"node" in words and token in seen:
            return int(entry.name)
    raise AssertionError("there is no such node")


def test_two_jobs_at_once(submit: Submit) -> None:
    """Each with a Ray of its own on the same machine."""
    count = "import ray; ray.init(log_to_driver=False); print('alone:', len(ray.nodes()) == 1)"
    both = [submit(EXAMPLE, "nodes=1", f"run=[python, -c, {count!r}]") for _ in range(2)]
    for ended in [each.ended() for each in both]:
        assert ended.code == 0 and "alone: True" in ended.story, ended.story


def test_without_ray_the_command_runs_on_every_node(submit: Submit) -> None:
    """Each reaches node 0 where it is told to; another's bad end ends the job by name."""
    meet = """
import os, socket
where = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
if os.environ["SLIPWORKS_RANK"] == "0":
    with socket.create_server(where) as server:
        print("node 0 was told:", server.accept()[0].recv(100).decode())
else:
    while True:
        try:
            with socket.create_connection(where) as there:
                there.sendall(f"I am one of {os.environ['SLIPWORKS_NODES']}".encode())
            break
        except ConnectionRefusedError:
            pass
"""
    ended = submit(EXAMPLE, "nodes=2", "ray=false", f"run=[python, -c, {json.encode(meet).decode()}]").ended()
    assert ended.code == 0 and "node 0 was told: I am one of 2" in ended.story, ended.story
    script = "run=test $SLIPWORKS_RANK = 0 && exec sleep 1000; echo my last word; exit 3"
    ended = submit(EXAMPLE, "nodes=2", "ray=false", script).ended(120)
    assert ended.code == LaunchError.code, ended.story
    assert "node 1 failed: the command ended there with exit code 3" in ended.story
    assert "my last word" in ended.story


def test_services_and_artifacts(submit: Submit) -> None:
    service = "{name: web, run: [python, -m, http.server, '18473'], ready: 'port:18473', nodes: head}"
    run = "python -c 'import urllib.request as u; print(u.urlopen(\"http://127.0.0.1:18473/\").status)'"
    ended = submit(
        EXAMPLE, "nodes=1", "ray=false", f"services=[{service}]", "artifacts=['/tmp/kept/*.txt']",
        f"run=mkdir -p /tmp/kept; echo x >/tmp/kept/a.txt; {run}; exit 4",
    ).ended()  # fmt: skip
    assert ended.code == 4 and "\n200\n" in ended.story, ended.story
    assert (ended.folder.artifacts / "tmp/kept/a.txt").read_text() == "x\n"


def test_bad_input_is_one_line(submit: Submit, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("name: j\narch: cpu\nrun: [true]\nnods: 2\n")
    for words, said in (
        ((str(tmp_path / "bad.yaml"),), "bad.yaml:4"),
        ((EXAMPLE, "arch=cpuu"), "cpuu"),
        ((EXAMPLE, "binds=['./none:/x']"), "does not exist"),
    ):
        going = submit(*words)
        assert going.child.wait(60) in (10, 11)
        story = going.err.read_text()
        (line,) = [each for each in story.splitlines() if each.startswith("error: ")]
        assert said in line and "Traceback" not in story
