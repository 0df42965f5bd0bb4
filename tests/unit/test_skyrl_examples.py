"""The examples for SkyRL become the commands that are committed, and GSM8K is what SkyRL reads."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from runner.job import Job
from tests.golden import examples, skyrl_commands

TEXTS = skyrl_commands.texts()


def job(name: str, cluster: str) -> Job:
    (found,) = [each for each in examples.SKYRL if each.name == name]
    return examples.dry(found, cluster).job


@pytest.mark.parametrize("name", TEXTS)
def test_no_drift(name: str) -> None:
    """A file that is missing fails as one that differs does."""
    assert (skyrl_commands.FOLDER / name).read_text() == TEXTS[name], "make golden"


def test_every_example_is_for_every_site() -> None:
    there = {file.name for file in skyrl_commands.FOLDER.iterdir()}
    assert there == set(TEXTS)
    kinds = ("skyrl-gsm8k", "skyrl-terminal-bench", "skyrl-mini-swe")
    sites = ("vista", "lonestar", "jureca", "jupiter", "juwels")
    assert {f"{kind}-{site}.txt" for kind in kinds for site in sites} < there
    assert {f"{kind}-old-jureca.txt" for kind in kinds} < there


@pytest.mark.parametrize("name", [each.name for each in examples.SKYRL])
def test_what_every_example_has(name: str) -> None:
    made = job(name, "jureca")
    assert made.saved and made.saved.shared is None and "trainer.ckpt_path=/checkpoints" in made.command
    assert "WANDB_API_KEY" in made.secrets
    assert (name.startswith("skyrl-terminal-bench")) == ("DAYTONA_API_KEY" in made.secrets)
    assert not [word for word in made.command if "KEY" in word]


def test_the_engines_fill_each_sites_nodes() -> None:
    for cluster, nodes, gpus in (("jureca", 1, 4), ("lonestar", 1, 3), ("vista", 4, 1)):
        words = job("skyrl-gsm8k", cluster).command
        assert f"generator.inference_engine.num_engines={nodes * gpus}" in words
        assert f"trainer.placement.policy_num_nodes={nodes}" in words


# examples/skyrl-gsm8k/gsm8k.py


@pytest.fixture
def gsm8k() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gsm8k", examples.EXAMPLES / "skyrl-gsm8k/gsm8k.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FOUND = [
    {"question": "How many?", "answer": "Half.\n#### 1,234"},
    {"question": "And 'now'?", "answer": "Less.\n#### -5"},
]


def test_rows_are_what_skyrl_reads(gsm8k: ModuleType) -> None:
    first, second = gsm8k.rows(iter(FOUND), "train")
    assert first["prompt"] == [{"role": "user", "content": "How many?" + gsm8k.ASKED}]
    assert first["reward_spec"] == {"method": "rule", "ground_truth": "1234"}
    assert (first["data_source"], first["env_class"]) == ("openai/gsm8k", "gsm8k")
    assert second["reward_spec"]["ground_truth"] == "-5"
    assert second["extra_info"] == {"split": "train", "index": 1, **FOUND[1]}
    with pytest.raises(ValueError, match="row 0 of test has no solution"):
        list(gsm8k.rows(iter([{"question": "?", "answer": "5"}]), "test"))


def test_files_are_made_once(gsm8k: ModuleType, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    (tmp_path / "staged").mkdir()
    for split in gsm8k.SPLITS:
        table = pyarrow.Table.from_pylist(FOUND)
        parquet.write_table(table, tmp_path / f"staged/{split}-00000-of-00001.parquet")
    gsm8k.make(tmp_path / "staged", tmp_path / "made")
    made = sorted(file.name for file in (tmp_path / "made").iterdir())
    assert made == ["train.parquet", "validation.parquet"]
    read = parquet.read_table(tmp_path / "made/validation.parquet").to_pylist()
    assert [each["reward_spec"]["ground_truth"] for each in read] == ["1234", "-5"]
    assert read[0]["extra_info"]["split"] == "test"
    before = (tmp_path / "made/train.parquet").stat().st_ino
    gsm8k.make(tmp_path / "none", tmp_path / "made")
    assert (tmp_path / "made/train.parquet").stat().st_ino == before
