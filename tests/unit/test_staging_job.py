"""What a job may say of its staging, what its nodes get of it, and the verb."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec import json

from kit.errors import InvalidFileError, LaunchError, UsageError
from runner import cli, fixing, job, prerequisites, submission
from runner.fixing import facts_like, launch_like
from runner.job import Job
from runner.skyrl.section import Skyrl, SkyrlData
from runner.staging import checks, staged
from runner.staging.asked import Stage
from runner.staging.staged import Record, Staged
from slurm import clusters
from tests.unit.parts_hub import StandIn, hub

__all__ = ["hub"]


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(f"name: j\narch: cpu\n{text}")
    return path


@pytest.mark.parametrize(
    ("stage", "match"),
    [
        ("{models: [a/b/c]}", r"job\.yaml:4: .*found 'a/b/c', expected a name on the hub"),
        ("{models: [/scratch/model]}", "expected a name on the hub"),
        ("{models: ['a/b@']}", "found revision '', expected a branch"),
        ("{models: [a/b], datasets: [c/b]}", "two entries are called b: give one of them another `name`"),
        ("{datasets: [{id: a/b, name: ../x}]}", "expected letters, digits"),
        ("{datasets: [{id: a/b, patterns: ['']}]}", "empty pattern"),
        ("{model: [a/b]}", "unknown key 'model' in .*: expected one of datasets, models"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path: Path, stage: str, match: str) -> None:
    with pytest.raises(Exception, match=match):
        job.load(written(tmp_path, f"run: 'true'\nstage: {stage}\n"))


def test_an_entry_that_is_named_must_be_staged(tmp_path: Path) -> None:
    text = (
        "run: train --model /slipworks-run/staged/{} --data=$SLIPWORKS_STAGED/x\nstage: {{models: [a/b]}}\n"
    )
    assert job.load(written(tmp_path, text.format("b"))).stage == Stage(models=("a/b",))
    with pytest.raises(
        InvalidFileError, match=r"job\.yaml:3: /slipworks-run/staged/c is named, and `stage` has no"
    ):
        job.load(written(tmp_path, text.format("c")))


def skyrl(model: str, train: str, **more: object) -> Job:
    section = Skyrl(model=model, data=SkyrlData(train=(train,)))
    return Job(**{"name": "j", "arch": "cpu", "skyrl": section, **more})  # type: ignore[arg-type]


def test_what_nodes_without_internet_could_not_get_is_refused_before_submission() -> None:
    jureca, vista = clusters.load("jureca"), clusters.load("vista")
    inside = "/slipworks-run/staged/gsm8k/train.parquet"
    with pytest.raises(InvalidFileError, match=r"^skyrl\.model: .*Qwen/Qwen3-8B is not staged") as raised:
        checks.demand(skyrl("Qwen/Qwen3-8B", inside), jureca)
    assert raised.value.hint == "stage: {models: [Qwen/Qwen3-8B]}"
    stage = Stage(models=("Qwen/Qwen3-8B@v1",), datasets=("openai/gsm8k",))
    with pytest.raises(
        InvalidFileError, match=r"^skyrl\.data\.train\[0\]: .*openai/gsm8k is the name of a data set"
    ):
        checks.demand(skyrl("Qwen/Qwen3-8B", "openai/gsm8k", stage=stage), jureca)
    checks.demand(skyrl("Qwen/Qwen3-8B", inside, stage=stage), jureca)
    checks.demand(skyrl("/models/mine", "data/train.parquet"), jureca)
    checks.demand(skyrl("Qwen/Qwen3-8B", "openai/gsm8k"), vista)
    checks.demand(skyrl("Qwen/Qwen3-8B", "openai/gsm8k", egress=True), jureca)


def test_offline_only_where_nodes_have_no_internet() -> None:
    def flags(cluster: str, **more: object) -> set[str]:
        plan = submission.launch(Job(name="j", arch="cpu", run="true"), clusters.load(cluster), "0badcafe")
        from msgspec.structs import replace

        fixed, _ = fixing.fixed(facts_like(), replace(plan, **more))
        return {name for name in fixed.env if name.endswith("OFFLINE")}

    assert flags("jureca") == {"HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"}
    assert flags("vista") == flags("generic") == set()
    entry = Staged(name="b", told="model a/b", id="a/b", commit="c", home="/h", folder="f", record="r")
    assert flags("vista", staged=(entry,)) == set()


def test_a_node_ends_before_anything_starts_where_a_file_is_gone(tmp_path: Path) -> None:
    record = Record(commit="c", snapshot="hub/models--a--b/snapshots/c", files={"config.json": 2})
    staged.write(tmp_path / "slipworks/r.json", record)
    (tmp_path / record.snapshot).mkdir(parents=True)
    (tmp_path / record.snapshot / "config.json").write_text("{}")
    entry = Staged(
        name="b", told="model a/b", id="a/b", commit="c", home=str(tmp_path), folder=record.snapshot,
        record="slipworks/r.json",
    )  # fmt: skip
    launch = launch_like(staged=(entry,))
    prerequisites.check(facts_like(), launch, {})
    (tmp_path / record.snapshot / "config.json").unlink()
    prerequisites.check(facts_like(rank=1, nodes=2), launch, {})
    with pytest.raises(LaunchError, match="the model a/b of this job is not whole any more") as raised:
        prerequisites.check(facts_like(), launch, {})
    assert str(raised.value.hint).startswith("runner stage JOB")


def test_the_verb(
    hub: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    commit = hub.publish("model", "a/b", {"config.json": b"{}", "w.safetensors": b"x" * 50})
    monkeypatch.setenv("SLIPWORKS_CLUSTER", "local")
    monkeypatch.setenv("SLIPWORKS_CACHE", str(tmp_path / "cache"))
    path = str(written(tmp_path, "run: 'true'\nstage: {models: [a/b]}\n"))

    def type_(*words: str) -> tuple[int, str, str]:
        code = cli.main(["stage", *words])
        told = capfd.readouterr()
        return code, told.out, told.err

    folder = tmp_path / f"cache/job-caches/huggingface/hub/models--a--b/snapshots/{commit}"
    code, out, err = type_(path, "--dry-run", "--json")
    assert code == 0 and json.decode(out)[0]["folder"] == str(folder) and not folder.exists()
    assert "model a/b: 0.00 GB, of which" in err
    code, out, _ = type_(path)
    assert (code, out) == (0, f"/slipworks-run/staged/b  {folder}\n") and (folder / "config.json").exists()
    code, out, _ = type_(path, "--json")
    assert json.decode(out) == [{
        "kind": "model", "id": "a/b", "revision": "main", "commit": commit, "bytes": 52,
        "inside": "/slipworks-run/staged/b", "folder": str(folder),
    }]  # fmt: skip
    code, _, err = type_(path, "stage.models=[]")
    assert code == UsageError.code and "names nothing to stage" in err
