"""What a job's fixes would be, told before it is submitted: nothing in it is made up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kit.errors import UsageError
from runner import cli, explaining
from runner.fixing import launch_like
from slurm import clusters

JOB = "name: j\narch: h100\nnodes: 2\ngpus: 1\nrun: hostname\nsbatch: {account: me}\n"


@pytest.mark.parametrize("name", [each for each in clusters.names() if each != "local"])
def test_what_a_node_alone_knows_is_marked(name: str) -> None:
    plan = launch_like(nodes=2, gpus=1)
    said = list(explaining.explained(plan, clusters.load(name), ours=True))
    assert any(line.startswith("fix node_ip:") and "‹its address›" in line for line in said)
    assert any(line.startswith("fix ray_ports:") and "‹a port›" in line for line in said)
    for made_up in (explaining.ADDRESS, str(explaining.CPUS), str(explaining.PORT), plan.run_id, "eth0"):
        assert not any(made_up in line for line in said)


def test_what_a_profile_says_is_told() -> None:
    said = "\n".join(explaining.explained(launch_like(nodes=2, gpus=1), clusters.load("vista"), ours=True))
    assert "Ray gets 72 CPUs" in said


def test_a_dry_run_in_json_and_none_of_an_explanation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("job.yaml").write_text(JOB)
    assert cli.main(["submit", "job.yaml", "--cluster", "generic", "--dry-run", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert list(answer) == ["script"] and answer["script"].startswith("#!/bin/bash")
    assert cli.main(["submit", "job.yaml", "--cluster", "generic", "--explain", "--json"]) == UsageError.code
    assert "hint: runner submit JOB --explain" in capsys.readouterr().err
