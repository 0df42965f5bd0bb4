"""Run folders as submissions, scripts and nodes leave them, and a Slurm that remembers what it was asked."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from msgspec import json

from kit import say
from kit.errors import LaunchError
from runner import cli, submitted
from runner.meeting import Ended, Meeting
from runner.run_states import Row
from runner.runs import RunFolder
from runner.submitted import Member, Record
from runner.watching import Watch

ID = "0badcafe"
OLD = time.time() - 40 * 86400


def run(
    runs: Path, name: str = "j", id: str = ID, *, nodes: int = 1, made: str = "20261121-120000"
) -> RunFolder:
    """A run folder just written."""
    folder = RunFolder(runs / f"{name}-{made}-{id}")
    folder.make()
    folder.job.write_bytes(json.encode({"name": name, "nodes": nodes, "env": {"A": "private"}}))
    folder.launch.write_bytes(json.encode({"run_id": id, "env": {"A": "private"}}))
    return folder


def record(folder: RunFolder, *ids: str, **more: object) -> Record:
    """Its submission, as jobs of Slurm."""
    said = {
        "run_id": folder.run_id, "name": "j", "cluster": "generic", "user": "me", "host": "login",
        "pid": 2**22 + 1, "begun": "2026-11-21T12:00:00+00:00", "wanted": len(ids), "state": "submitted",
    }  # fmt: skip
    jobs = tuple(
        Member(id=id, comment=f"slipworks:{folder.run_id}:{place}", at="2026-11-21T12:00:00+00:00")
        for place, id in enumerate(ids)
    )
    made = Record(**(said | {"jobs": jobs} | more))  # type: ignore[arg-type]
    submitted._write(folder, made)
    return made


def attempt(
    folder: RunFolder,
    number: int = 1,
    *,
    job: str | None = None,
    hosts: Sequence[str] = ("n1",),
    ended: Ended | None = None,
    code: int | None = None,
    log: str = "",
    alive: bool = True,
) -> Meeting:
    """An attempt; alive: its node has just given a sign of life, else two minutes ago."""
    made = folder.attempt(number)
    meeting = Meeting(made.meeting)
    meeting.open()
    if job:
        made.slurm.write_text(f"job_id={job}\nrestart_count=0\njob={number}\nhosts={' '.join(hosts)}\n")
    made.events("0").write_text('{"at":1,"who":"node 0","event":"node started"}\n'
                                '{"at":2,"who":"node 0","event":"command started"}\n')  # fmt: skip
    beat = meeting.folder / "alive-0"
    beat.write_text("1")
    if not alive:
        os.utime(beat, (time.time() - 120,) * 2)
    if log:
        made.log(0).write_text(log)
    if ended:
        meeting.end(0, ended)
    if code is not None:
        made.job_log.write_text(
            f"attempt {number}: job {job} on n1\nattempt {number} ended with exit code {code}\n"
        )
    return meeting


def row(id: str, state: str, of: str = ID, **more: object) -> Row:
    """A job. From 10 on it is one of the run `of`: the first of its chain, and so on."""
    comment = f"slipworks:{of}:{int(id) - 10}" if int(id) >= 10 else ""
    return Row(**{"id": id, "state": state, "comment": comment, **more})  # type: ignore[arg-type]


class Slurm:
    """Slurm as a test has it, of the cluster that records name. away: it does not answer."""

    def __init__(
        self, *rows: Row, past: Sequence[Row] | None = None, away: bool = False, cluster: str = "generic"
    ) -> None:
        self.cluster: str | None = cluster
        self.rows = {each.id: each for each in rows}
        self.accounts = past
        self.away = away
        self.cancelled: list[str] = []
        self.questions: list[str] = []

    def mine(self) -> Mapping[str, Row]:
        self.questions.append("mine")
        if self.away:
            raise LaunchError("could not ask for jobs: Unable to contact slurm controller")
        return self.rows

    def past(self, seconds: float, ids: Sequence[str] = ()) -> Mapping[str, Row] | None:
        self.questions.append("past")
        return None if self.accounts is None else {each.id: each for each in self.accounts}

    def cancel(self, ids: Sequence[str]) -> None:
        self.cancelled += ids

    def submit(self, script: Path, options: Sequence[str], arguments: Sequence[str] = ()) -> str:
        raise AssertionError("nothing is submitted by watching")

    def commented(self, prefix: str) -> Mapping[str, str]:
        return {row.comment: id for id, row in self.rows.items() if row.comment.startswith(prefix)}


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's runs; no Slurm is here, and nothing was told yet."""
    monkeypatch.setattr(say, "_said", set())
    monkeypatch.setenv("SLIPWORKS_RUNS", str(tmp_path / "my runs"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("SLIPWORKS_CLUSTER", "local")
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "my runs").mkdir()
    return tmp_path / "my runs"


Reached = Callable[[Slurm], Slurm]


@pytest.fixture
def reached(monkeypatch: pytest.MonkeyPatch) -> Reached:
    """Makes a test's Slurm the one that is reached."""

    def reach(slurm: Slurm) -> Slurm:
        monkeypatch.setattr(Watch.__init__, "__defaults__", (lambda: slurm,))
        return slurm

    return reach


def typed(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = cli.main(argv)
    said = capsys.readouterr()
    assert "private" not in said.out + said.err
    return code, said.out, said.err


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
