"""A model, jobs that stage it, and what they find of it in a cache."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runner import submission
from runner.job import Job
from runner.launch import Launch
from runner.staging import submitting
from runner.staging.asked import Dataset, Model, Stage
from slurm import clusters

MODEL = "Qwen/Tiny"
WEIGHTS = os.urandom(3_000_000)
FILES = {"config.json": b'{"a": 1}', "model.safetensors": WEIGHTS, "more/notes.txt": b"", "same.bin": WEIGHTS}


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    return tmp_path / "scratch"


def job(*models: str | Model, datasets: tuple[str | Dataset, ...] = (), **more: object) -> Job:
    stage = Stage(models=models, datasets=datasets)
    return Job(**{"name": "j", "arch": "cpu", "run": "true", "stage": stage, **more})  # type: ignore[arg-type]


def bring(job: Job, scratch: Path, cluster: str = "jureca") -> Launch:
    plan = submission.launch(job, clusters.load(cluster), "0badcafe")
    return submitting.brought(job, plan, scratch)


def folder(plan: Launch, scratch: Path, place: int = 0) -> Path:
    """Where an entry leads to, here."""
    return scratch / "huggingface" / plan.staged[place].folder


def holds(at: Path) -> dict[str, bytes]:
    return {str(each.relative_to(at)): each.read_bytes() for each in at.rglob("*") if each.is_file()}
