"""The code server as a part of a job: when there is one, and what the nodes and the command are told."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec import json

from kit.errors import InvalidFileError, UnknownNameError
from runner import job as jobs
from runner import submission
from runner.chosen import Chosen
from runner.code_server import in_job
from runner.code_server.wanted import VARIABLE
from runner.job import Job
from runner.launch import Launch, Service
from runner.runs import RunFolder
from slurm import clusters

REWARDED = "code_pass_rate_reward_threshold: 0.99\n"


def loaded(tmp_path: Path, more: str = "", training: str | None = None) -> Job:
    if training is not None:
        (tmp_path / "training.yaml").write_text(training)
        more += "training: training.yaml\n"
    (tmp_path / "job.yaml").write_text("name: j\narch: cpu\nrun: train\n" + more)
    return jobs.load(tmp_path / "job.yaml")


def planned(job: Job, cluster: str = "generic") -> Launch:
    return submission.launch(job, clusters.load(cluster), "0badcafe")


def server(job: Job, cluster: str = "generic") -> Service:
    (found,) = [each for each in planned(job, cluster).services if each.name == in_job.NAME]
    return found


@pytest.mark.parametrize(
    ("training", "there"),
    [
        (REWARDED, True), ("code_pass_rate_reward_threshold: 0.0\n", True), ("lr: 1\n", False),
        (REWARDED + "code_api_url: http://localhost:1234/test_program\n", True),
        (REWARDED + "code_api_url: https://other.example.org/test_program\n", False),
        ("code_pass_rate_reward_threshold: null\n", False),
    ],
)  # fmt: skip
def test_a_training_file_that_rewards_passed_tests_switches_it_on(
    tmp_path: Path, training: str, there: bool
) -> None:
    job = loaded(tmp_path, training=training)
    assert (in_job.asked(job) is not None) == there
    assert (in_job.why(job) is not None) == there
    names = [each.name for each in planned(job).services]
    assert names == ([in_job.NAME] if there else [])


def test_the_job_itself_has_the_last_word(tmp_path: Path) -> None:
    assert in_job.asked(loaded(tmp_path, "code_server: false\n", REWARDED)) is None
    assert in_job.asked(loaded(tmp_path, "code_server: true\n")) is not None
    assert in_job.asked(loaded(tmp_path)) is None
    given = in_job.asked(loaded(tmp_path, "code_server: {workers: 3, at_least: 5}\n", REWARDED))
    assert given and (given.workers, given.at_least, given.port) == (3, 5.0, 1234)


def test_the_port_is_the_jobs_the_training_files_or_the_usual_one(tmp_path: Path) -> None:
    url = REWARDED + "code_api_url: http://localhost:4321/test_program\n"
    assert planned(loaded(tmp_path, training=url)).env["CODE_API_URL"] == "http://127.0.0.1:4321"
    own = loaded(tmp_path, "code_server: {port: 99}\n", url)
    assert planned(own).env["CODE_API_URL"] == "http://127.0.0.1:99"
    assert planned(loaded(tmp_path, "code_server: true\n")).env["CODE_API_URL"] == "http://127.0.0.1:1234"


def test_every_node_has_one_and_the_command_is_told(tmp_path: Path) -> None:
    job = loaded(tmp_path, "nodes: 2\ncode_server: {listen: 0.0.0.0, memory: 999}\n")
    made, plan = server(job), planned(job)
    assert made.nodes == "all" and made.ready == "http://127.0.0.1:1234/health" and made.restart > 0
    assert made.run[:3] == ("/slipworks/bin/runner", "code-server", "--set")
    assert json.decode(made.run[3])["memory"] == 999
    assert plan.netrc == "127.0.0.1" and "NETRC" not in plan.env and len(made.run) == 4
    assert planned(loaded(tmp_path, "code_server: true\nenv: {NETRC: x}\n")).netrc is None
    assert planned(loaded(tmp_path, "code_server: true\nenv: {CODE_API_URL: x}\n")).env["CODE_API_URL"] == "x"


def test_nodes_that_share_a_machine_share_it(tmp_path: Path) -> None:
    job = loaded(tmp_path, "nodes: 2\ncode_server: true\n")
    assert server(job, "local").nodes == "head"


def test_the_key_is_made_with_the_run_and_is_in_no_plan(tmp_path: Path) -> None:
    job = loaded(tmp_path, "code_server: true\nray: false\n")
    plan = planned(job)
    assert plan.secrets == (VARIABLE,)
    found = []
    for number in range(2):
        folder = RunFolder(tmp_path / f"run-{number}")
        folder.make()
        submission.write_private(folder, plan, {"MINE": "x"})
        found.append(json.decode(folder.secrets.read_bytes()))
        assert folder.secrets.stat().st_mode & 0o777 == 0o600
    assert all(each["MINE"] == "x" and len(each[VARIABLE]) == 64 for each in found)
    assert found[0][VARIABLE] != found[1][VARIABLE]


def test_without_a_key_nothing_is_made(tmp_path: Path) -> None:
    plan = planned(loaded(tmp_path, "code_server: {key: false}\n"))
    assert plan.secrets == () and plan.netrc is None and planned(loaded(tmp_path)).netrc is None
    assert '"key":false' in plan.services[0].run[3]


def test_the_submitter_is_told_of_one_that_was_not_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = loaded(tmp_path, "ray: false\n", REWARDED)
    folder = RunFolder(tmp_path / "run")
    folder.make()
    submission.fill(folder, job, planned(job), Chosen(reference="x", engine="apptainer"))
    told = capsys.readouterr().err
    assert "note: a code server on every node" in told and "code_server=false: none" in told


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("code_server: {port: 70000}\n", r"job.yaml:4.*found port 70000"),
        ("code_server: {prt: 1}\n", "unknown key .prt. in .*job.yaml:4"),
        ("code_server: true\nservices: [{name: code-server, run: x}]\n", "a service is called code-server"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path: Path, more: str, said: str) -> None:
    with pytest.raises((InvalidFileError, UnknownNameError), match=said):
        loaded(tmp_path, more)
