"""What a node must find in its run folder, and what there is not its own."""

from __future__ import annotations

import pytest
from msgspec import json

from kit import files
from kit.errors import LaunchError
from runner import submission
from runner.job import Checkpoints, Job
from runner.runs import RunFolder
from slurm import clusters
from tests.unit.parts_node import alone, folder, job, nothing_survives

__all__ = ["folder", "nothing_survives"]
pytestmark = pytest.mark.timeout(120)


@pytest.mark.parametrize("left", [{"A_KEY": "s3cret"}, None])
def test_a_secret_that_is_gone_is_told_before_anything_starts(
    folder: RunFolder, left: dict[str, str] | None
) -> None:
    job(folder, "true", secrets=("A_KEY", "B_KEY"))
    if left:
        files.write(folder.secrets, json.encode(left), mode=0o600)
    code, log = alone(folder)
    assert code == LaunchError.code and "B_KEY: secrets are removed" in log
    assert ("A_KEY" in log) == (left is None) and "running the command" not in log and "s3cret" not in log


def test_secrets_that_cannot_be_read_are_not_quoted(folder: RunFolder) -> None:
    job(folder, "true", secrets=("A_KEY",))
    files.write(folder.secrets, '{"A_KEY": "s3cret', mode=0o600)
    code, log = alone(folder)
    assert code and "cannot read" in log and "s3cret" not in log


@pytest.mark.parametrize("shared", [False, True])
def test_in_a_shared_folder_a_new_file_is_no_step(folder: RunFolder, shared: bool) -> None:
    kept = folder.root / "kept"
    kept.mkdir()
    job(folder, "sh", "-c", f'touch "{kept.name}/x"; exit 3', workdir=str(folder.root), restarts=1,
        checkpoints=str(kept), checkpoints_shared=shared)  # fmt: skip
    assert alone(folder)[0] == 3
    assert folder.finished.exists() == shared


def test_a_node_learns_which_secrets_it_must_have_and_whose_its_checkpoints_are() -> None:
    asked = Job(name="j", arch="cpu", run="true", secrets=("A",), checkpoints=Checkpoints(shared="all"))
    plan = submission.launch(asked, clusters.load("generic"), "0badcafe")
    assert plan.secrets == ("A",) and plan.checkpoints_shared
    own = submission.launch(Job(name="j", arch="cpu", run="true"), clusters.load("generic"), "0badcafe")
    assert not own.secrets and not own.checkpoints_shared
