"""Runs that are the tasks of one job array: their script, and records that lose no job."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from msgspec import structs

from kit.errors import InvalidFileError, LaunchError, NetworkError, SlipworksError
from runner import run_files, run_states, submitted
from runner.run_states import Row
from runner.runs import RunFolder
from slurm import answers, array

COMMENT = "slipworks:00000001:0"


class Slurm:
    """Takes one array; refuses, or gives no answer, as told."""

    def __init__(self, refuses: SlipworksError | None = None, takes: bool = True) -> None:
        self.refuses, self.takes, self.said = refuses, takes, list[Sequence[str]]()

    def submit(self, script: Path, options: Sequence[str], arguments: Sequence[str] = ()) -> str:
        self.said.append(options)
        if self.refuses:
            raise self.refuses
        return "40"

    def commented(self, prefix: str) -> Mapping[str, str]:
        return {COMMENT: "40_2"} if self.takes and self.said and COMMENT.startswith(prefix) else {}


@pytest.fixture
def runs(tmp_path: Path) -> list[tuple[RunFolder, submitted.Record]]:
    made = []
    for task in (1, 2, 3):
        folder = RunFolder(tmp_path / f"runs/sif-{task}-20261121-120000-0000000{task}")
        folder.make()
        made.append((folder, submitted.begin(folder, "sif", "here", 1, task=task, array=COMMENT)))
    return made


Runs = list[tuple[RunFolder, submitted.Record]]


def test_each_task_is_a_job_of_its_run(runs: Runs, tmp_path: Path) -> None:
    slurm = Slurm()
    made = submitted.submit_array(tmp_path / "x", runs, slurm)
    assert [each.ids for each in made] == [("40_1",), ("40_2",), ("40_3",)]
    assert slurm.said == [[f"--comment={COMMENT}"]], "one job for all"
    for folder, _ in runs:
        record = submitted.read(folder)
        assert record and record.state == "submitted"
        rows = {id: Row(id=id, state="RUNNING", comment=COMMENT) for id in ("40_1", "40_2", "40_3")}
        (row,) = run_states.own_rows(record, rows)
        assert row.id == record.ids[0]
        (folder.root / "job.json").write_text('{"name": "sif"}')
        now = run_states.of(run_files.read(folder), rows, 0.0)
        assert (now.state, now.jobs) == ("running", record.ids)


def test_what_slurm_took_though_sbatch_failed_counts(runs: Runs, tmp_path: Path) -> None:
    made = submitted.submit_array(tmp_path / "x", runs, Slurm(LaunchError("socket timed out")))
    assert [each.ids for each in made] == [("40_1",), ("40_2",), ("40_3",)]


def test_a_refusal_is_every_runs(runs: Runs, tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match="no such partition"):
        submitted.submit_array(tmp_path / "x", runs, Slurm(LaunchError("no such partition"), takes=False))
    found = [submitted.read(folder) for folder, _ in runs]
    assert [each.state for each in found if each] == ["failed"] * 3


def test_without_an_answer_it_is_healed_later(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm = Slurm(NetworkError("no answer"), takes=False)
    with pytest.raises(LaunchError, match="is not known"):
        submitted.submit_array(tmp_path / "x", runs, slurm)
    folder, record = runs[2]
    gone = structs.replace(record, started=-1)
    submitted._write(folder, gone)
    assert submitted.healed(folder, gone, slurm).state == "submitting", "it may still come"
    slurm.takes = True
    assert submitted.healed(folder, gone, slurm).ids == ("40_3",)
    submitted._write(folder, gone)
    slurm.takes = False
    monkeypatch.setattr(submitted, "PATIENCE", -1.0)
    healed = submitted.healed(folder, gone, slurm)
    assert healed.state == "failed" and "broke off" in (healed.why or "")


def test_a_task_becomes_its_runs_script(tmp_path: Path) -> None:
    roots = [tmp_path / "it's one", tmp_path / "$(two)\nhere"]
    for root in roots:
        root.mkdir()
        (root / "job.sbatch").write_text('echo "$0 $1 $SLURM_ARRAY_TASK_ID"; exit 7\n')
    given = array.options({"nodes": 1, "output": "x", "job-name": "y"}, "sif", 2, roots[0], 1)
    text = array.render(given, roots)
    assert "#SBATCH --array=1-2%1\n" in text and "#SBATCH --job-name=sif\n" in text
    assert "array-%A_%a.out" in text
    for task, root in enumerate(roots, 1):
        env = {"SLURM_ARRAY_TASK_ID": str(task), "SLURM_JOB_ID": "9", "PATH": "/usr/bin:/bin"}
        done = subprocess.run(["bash", "-c", text], env=env, check=False)
        assert done.returncode == 7
        assert (root / "slurm-9.out").read_text() == f"{root}/job.sbatch 1 {task}\n"
    (roots[0] / "job.sbatch").unlink()
    env |= {"SLURM_ARRAY_TASK_ID": "1", "SLURMD_NODENAME": "n7"}
    lost = subprocess.run(["bash", "-c", text], env=env, capture_output=True, text=True, check=False)
    assert lost.returncode == 50 and f"error: n7 does not see {roots[0]}" in lost.stderr
    with pytest.raises(InvalidFileError, match="carriage return"):
        array.render(given, [Path("/a\rb")])


def test_tasks_are_asked_for_one_by_one() -> None:
    assert "--array" in answers.queue_words()
    assert any(word.startswith("--format=JobID,") for word in answers.history_words(seconds=9, user=None))
