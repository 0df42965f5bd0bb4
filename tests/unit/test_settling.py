"""What the first look at an ended run of Slurm jobs leaves in its folder."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from msgspec import json

from runner.meeting import Ended
from runner.runs import RunFolder
from runner.watching import Watch, settled
from tests.unit.parts_watch import OLD, Reached, Slurm, attempt, reached, record, row, run, runs, typed

__all__ = ["reached", "runs"]
STEP = """(main pid=7) Started: 'step'
Finished: 'generate', time cost: 2.00s
avg_final_rewards: 0.5, avg_response_length: 100.0
Finished: 'step', time cost: 3.00s
"""


@pytest.fixture
def folder(runs: Path) -> RunFolder:
    """A chain of two attempts, each with a step, that has ended well an hour ago."""
    made = run(runs)
    made.job.write_bytes(json.encode({"name": "j", "nodes": 1, "throughput": {"trajectories": 8}}))
    record(made, "10", "11")
    attempt(made, 1, job="10", ended=Ended(1, "so"), code=1, log=STEP)
    attempt(made, 2, job="11", ended=Ended(0), code=0, log=STEP)
    made.attempt(2).events("job").write_text('{"at":0.5,"who":"job","event":"job started"}\n{"at":9')
    made.finished.write_text("succeeded\n")
    for path in (made.finished, made.attempt(2).job_log):
        os.utime(path, (time.time() - 3600,) * 2)
    return made


ENDED = (row("10", "FAILED"), row("11", "COMPLETED"))


def test_the_first_look_writes_events_and_result(
    folder: RunFolder, reached: Reached, capsys: pytest.CaptureFixture[str]
) -> None:
    folder.secrets.write_text("{}")
    reached(Slurm(*ENDED))
    typed(capsys, "history")
    result = json.decode(folder.result.read_bytes())
    assert (result["code"], result["state"], result["attempt"]) == (0, "completed", 2)
    assert result["throughput"]["steps"] == 2 and result["throughput"]["tokens_per_second"] == 400.0
    told = [json.decode(line) for line in folder.events.read_bytes().splitlines()]
    assert [each["at"] for each in told] == [0.5, 1, 1, 2, 2] and told[0]["who"] == "job"
    assert not folder.secrets.exists()
    assert settled(folder, 3000) and folder.result.stat().st_mtime < time.time() - 3000, "dated when it ended"
    before = folder.result.stat()
    out = typed(capsys, "status", "last")[1]
    assert "tokens per second" in out and "400" in out
    assert json.decode(typed(capsys, "status", "last", "--json")[1])[0]["throughput"]["steps"] == 2
    assert folder.result.stat() == before, "written once"


def test_what_goes_on_has_no_result(folder: RunFolder) -> None:
    folder.finished.unlink()
    assert not Watch(lambda: Slurm(row("10", "FAILED"), row("11", "RUNNING"))).state(folder).over
    assert not folder.result.exists() and not folder.events.exists()
    assert Watch(lambda: Slurm(away=True)).state(folder).over, "by its files"
    assert not folder.result.exists(), "nobody was asked"


def test_a_job_that_was_put_back_gets_another_result(folder: RunFolder) -> None:
    folder.finished.unlink()
    (folder.attempt(2).meeting / "ended-0").unlink()
    attempt(folder, 2, job="11", code=143, alive=False)
    slurm = Slurm(row("10", "FAILED"), row("11", "NODE_FAIL", ended=OLD))
    watch = Watch(lambda: slurm)
    assert watch.state(folder).why == "a node failed"
    assert json.decode(folder.result.read_bytes())["code"] == 143
    slurm.rows["11"] = row("11", "RUNNING")
    attempt(folder, 3, job="11")
    assert watch.anew(folder).state == "running", "whatever the result of before says"
    attempt(folder, 3, job="11", ended=Ended(0), code=0)
    slurm.rows["11"] = row("11", "COMPLETED")
    assert watch.anew(folder).state == "completed"
    assert json.decode(folder.result.read_bytes())["attempt"] == 3


def test_a_result_that_cannot_be_written_is_told(
    folder: RunFolder, reached: Reached, capsys: pytest.CaptureFixture[str]
) -> None:
    folder.events.mkdir()
    reached(Slurm(*ENDED))
    code, out, err = typed(capsys, "status", "last")
    assert code == 0 and "completed" in out and "note: cannot write the results of ended runs" in err
