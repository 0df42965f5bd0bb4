"""`runner sync` with W&B's own programs: runs that wandb wrote offline go to a server that speaks as its own.

Not W&B's server itself: what it would refuse of these requests is not seen here.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import Struct, json

from kit.errors import EXIT_CODES
from runner.runs import RunFolder
from tests.live.needs import need
from tests.live.parts_wandb import KEY, Wandb
from tests.unit.parts_watch import run as run_folder

pytestmark = [pytest.mark.live, pytest.mark.timeout(240)]
ROOT = Path(__file__).parents[2]
MAIN = "import sys; from runner.cli import main; sys.exit(main())"
LOGS = """
import os, wandb
run = wandb.init(project="grpo", id={id!r}, settings=wandb.Settings(x_disable_stats=True))
for step in range({steps}):
    run.log({{"reward": step / 10}})
{end}
"""


class Told(Struct):
    code: int
    out: str
    err: str

    @property
    def states(self) -> list[tuple[str, str]]:
        return [(each["wandb"].rpartition("-")[2], each["state"]) for each in json.decode(self.out)]


@pytest.fixture
def server() -> Iterator[Wandb]:
    made = Wandb()
    yield made
    made.close()


class Desk:
    def __init__(self, folder: Path, server: Wandb) -> None:
        self.runs = folder / "the user's runs"
        self.runs.mkdir()
        kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
        self.env = kept | {
            "SLIPWORKS_RUNS": str(self.runs), "SLIPWORKS_CLUSTER": "local", "PYTHONPATH": str(ROOT),
            "XDG_CONFIG_HOME": str(folder / "settings"), "HOME": str(folder), "WANDB_BASE_URL": server.url,
            "WANDB_ERROR_REPORTING": "false", "WANDB_API_KEY": KEY,
        }  # fmt: skip

    def type(self, *words: str, **env: str) -> Told:
        done = subprocess.run(
            [sys.executable, "-c", MAIN, *words], env=self.env | env, stdin=subprocess.DEVNULL, text=True,
            capture_output=True, timeout=120, check=False,
        )  # fmt: skip
        assert "Traceback" not in done.stderr, done.stderr
        assert KEY not in done.stdout + done.stderr
        return Told(done.returncode, done.stdout, done.stderr)

    def run(self, number: int = 0) -> RunFolder:
        folder = run_folder(self.runs, id=f"0badcaf{number}")
        folder.result.write_text('{"code": 0}')
        return folder

    def logged(self, folder: RunFolder, id: str, steps: int = 30, end: str = "run.finish()") -> None:
        """As a node's process does it with what the fix wandb_offline sets."""
        script = LOGS.format(id=id, steps=steps, end=end)
        env = self.env | {"WANDB_MODE": "offline", "WANDB_DIR": str(folder.root)}
        done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, check=False)
        assert list(folder.root.glob(f"wandb/offline-run-*-{id}/run-{id}.wandb")), done.stderr.decode()


@pytest.fixture
def desk(tmp_path: Path, server: Wandb) -> Desk:
    from importlib import util

    need(util.find_spec("wandb"), "wandb is not installed beside the runner: ./setup.sh kit")
    return Desk(tmp_path, server)


def test_each_run_goes_there_once_and_whole(desk: Desk, server: Wandb) -> None:
    first, second = desk.run(0), desk.run(1)
    desk.logged(first, "one", 30)
    desk.logged(second, "two", 12)
    told = desk.type("sync", "--json")
    assert told.code == 0, told.err
    assert sorted(told.states) == [("one", "synced"), ("two", "synced")]
    assert server.rewards("one") == [step / 10 for step in range(30)]
    assert len(server.rewards("two")) == 12
    assert {"config.yaml", "wandb-metadata.json", "wandb-summary.json"} <= set(server.runs["one"].files)
    assert json.decode(told.out)[0]["url"].startswith(f"{server.url}/us/grpo/runs/")
    asked = len(server.asked)
    again = desk.type("sync", "--json")
    assert again.code == 0 and sorted(again.states) == [("one", "before"), ("two", "before")]
    assert len(server.asked) == asked, "nobody is asked for what is there"
    copy = first.artifacts / "kept"
    copy.mkdir(parents=True)
    (source,) = first.root.glob("wandb/offline-run-*")
    subprocess.run(["cp", "-a", source, copy], check=True)
    assert desk.type("sync", "last", "--json").states == [("two", "before")]
    assert desk.type("sync", "0badcaf0", "--json").states == [("one", "before")], "a copy is no second run"


def test_a_killed_job_s_run_goes_there_as_far_as_it_was_written(desk: Desk, server: Wandb) -> None:
    folder = desk.run()
    desk.logged(folder, "killed", 400, end="os.kill(os.getpid(), 9)")
    (log,) = folder.root.glob("wandb/offline-*/run-killed.wandb")
    os.truncate(log, log.stat().st_size - 700)
    told = desk.type("sync", "--json")
    assert told.code == 0 and told.states == [("killed", "cut off")], told.err
    assert 100 < len(server.rewards("killed")) < 400
    assert desk.type("sync", "--json").states == [("killed", "before")]


def test_an_upload_that_broke_off_goes_on(desk: Desk, server: Wandb) -> None:
    """wandb 0.31.0 ends with code 0 then, and marks the run as synced: so what it says decides."""
    folder = desk.run()
    desk.logged(folder, "broken", 50)
    server.wrong = lambda asked: 404 if asked == "file_stream" else 0
    told = desk.type("sync", "--json")
    assert told.code == EXIT_CODES["NetworkError"] and told.states == [("broken", "failed")]
    assert "error: could not sync offline-run-" in told.err and "Fatal error" in told.err
    assert "hint: runner sync 0badcaf0" in told.err
    assert not list(folder.root.glob("wandb/offline-*/*.synced"))
    server.wrong = lambda asked: 0
    told = desk.type("sync", "--json")
    assert told.code == 0 and told.states == [("broken", "synced")], told.err
    assert len(server.rewards("broken")) == 50


def test_a_sync_that_was_interrupted_is_typed_again(desk: Desk, server: Wandb) -> None:
    folder = desk.run()
    desk.logged(folder, "slow", 50)
    server.wrong = lambda asked: 500 if asked == "file_stream" else 0
    child = subprocess.Popen([sys.executable, "-c", MAIN, "sync"], env=desk.env, stderr=subprocess.PIPE,
                             stdout=subprocess.PIPE)  # fmt: skip
    deadline = time.monotonic() + 60
    while "file_stream" not in server.asked:
        assert time.monotonic() < deadline and child.poll() is None
        time.sleep(0.05)
    assert desk.type("sync", "--json").states == [("slow", "held")], "another is at it"
    child.send_signal(signal.SIGTERM)
    child.communicate(timeout=30)
    assert child.returncode == 143
    server.wrong = lambda asked: 0
    told = desk.type("sync", "--json")
    assert told.code == 0 and told.states == [("slow", "synced")], told.err
    assert len(server.rewards("slow")) == 50


@pytest.mark.parametrize("key", ["wrong" * 8, ""])
def test_without_a_key_that_fits_nothing_is_marked(desk: Desk, server: Wandb, key: str) -> None:
    folder = desk.run()
    desk.logged(folder, "mine", 5)
    told = desk.type("sync", "--json", WANDB_API_KEY=key)
    assert told.code == EXIT_CODES["AuthError"], told.err
    assert told.states == [("mine", "failed")] and "hint: runner secrets set WANDB_API_KEY" in told.err
    assert desk.type("sync", "--json").states == [("mine", "synced")]


def test_a_server_that_is_away_is_told_soon(desk: Desk, server: Wandb) -> None:
    folder = desk.run()
    desk.logged(folder, "away", 5)
    told = desk.type("sync", WANDB_BASE_URL="http://127.0.0.1:1", WANDB_X_GRAPHQL_RETRY_MAX="1")
    assert told.code == EXIT_CODES["NetworkError"] and "connection refused" in told.err
    assert "failed" in told.out
