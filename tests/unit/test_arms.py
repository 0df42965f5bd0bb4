"""Arms of a comparison: what they may differ in, how they are refused, how they are submitted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from msgspec.structs import replace

from kit.errors import InvalidFileError, LaunchError, SlipworksError, UnknownNameError, UsageError
from runner import arms, chosen, queueing, submitted
from runner.chosen import Chosen, Found
from runner.cli import main
from runner.runs import RunFolder

JOB = """name: ta
arch: cpu
nodes: 1
env: {ROUTER: default, WEIGHT: "1.0"}
run: [train, --steps, "3"]
services: [{name: router, nodes: head, run: exec router, ready: "port:8300"}]
"""
ARMS = """settings: [env.ROUTER, env.WEIGHT]
arms:
  default: [env.ROUTER=default]
  tr: [env.ROUTER=tr, env.WEIGHT=0.1]
"""


class Folder:
    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        self.say(JOB, ARMS)

    def say(self, job: str = JOB, text: str = ARMS) -> None:
        (self.path / "job.yaml").write_text(job)
        (self.path / "arms.yaml").write_text(text)

    def arms(self, *names: str, more: Sequence[str] = ()) -> tuple[arms.Arm, ...]:
        return arms.loaded(arms.read(self.path), names, more)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "it's a folder")


def test_arms_differ_in_what_is_named(folder: Folder) -> None:
    default, tr = folder.arms()
    assert (default.job.name, tr.job.name) == ("ta-default", "ta-tr")
    assert default.job.env == {"ROUTER": "default", "WEIGHT": "1.0"}
    assert tr.job.env == {"ROUTER": "tr", "WEIGHT": "0.1"}
    assert arms.differences(default, tr) == {
        "env.ROUTER": ("default", "tr"), "env.WEIGHT": ("1.0", "0.1"),
    }  # fmt: skip
    assert list(arms.told((default, tr))) == [
        "default and tr differ in env.ROUTER 'default' against 'tr', env.WEIGHT '1.0' against '0.1'"
    ]
    assert [arm.name for arm in folder.arms("tr", "default")] == ["tr", "default"], "in the order asked for"
    assert all(arm.job.nodes == 4 for arm in folder.arms(more=["nodes=4"]))


@pytest.mark.parametrize(
    ("more", "key", "values"),
    [
        ("nodes=2", "nodes", "1 against 2"),
        ("env.LR=1e-6", "env.LR", "nothing against '1e-6'"),
        ("run=[train, --steps, '4']", "run[2]", "'3' against '4'"),
        ("run=[train, --steps, '3', --fast]", "run[3]", "nothing against '--fast'"),
        ("time=10", "time", "nothing against '10'"),
        ("checkpoints=true", "checkpoints", "False against True"),
        ("services=[]", "services", "nothing against []"),
        ("env.ROUTERS=x", "env.ROUTERS", "nothing against 'x'"),
    ],
)
def test_a_difference_elsewhere_is_refused_by_its_key(
    more: str, key: str, values: str, folder: Folder
) -> None:
    folder.say(text=ARMS.replace("[env.ROUTER=tr,", f'[env.ROUTER=tr, "{more}",'))
    with pytest.raises(InvalidFileError) as refused:
        folder.arms()
    message = refused.value.message
    if key != "services":  # a list's own difference shows as that of its parts
        assert f" differ in {key}, which `settings` does not name: {values}" in message
    assert (
        f"differ in {key}" in message and f"{folder.path / 'arms.yaml'}:4: the arms default and tr" in message
    )
    assert refused.value.hint and "settings" in refused.value.hint
    named = key.split("[")[0]
    folder.say(
        text=(folder.path / "arms.yaml").read_text().replace("[env.ROUTER, ", f"[env.ROUTER, {named}, ")
    )
    assert len(folder.arms()) == 2, "named, it may differ"


def test_a_command_that_is_made_has_the_arms_own_name(folder: Folder) -> None:
    """By which W&B tells them apart."""
    section = "skyrl: {model: a/b, data: {train: [/x]}, overrides: {trainer.logger: console}}\n"
    job = JOB.replace("run: [train", "workdir: /\n# [train") + section
    folder.say(job + "line: cu12\n", ARMS)
    found = {arm.name: [word for word in arm.job.command if "run_name" in word] for arm in folder.arms()}
    assert found == {"default": ["trainer.run_name=ta-default"], "tr": ["trainer.run_name=ta-tr"]}
    default, tr = folder.arms()
    assert list(arms.differences(default, tr)) == ["env.ROUTER", "env.WEIGHT"]


def test_a_name_that_yaml_would_take_for_a_date(folder: Folder) -> None:
    folder.say(JOB.replace("name: ta", "name: 2026-11"), ARMS.replace("  tr:", '  "21":'))
    assert [arm.job.name for arm in folder.arms()] == ["2026-11-default", "2026-11-21"]


def test_a_setting_allows_what_is_below_it(folder: Folder) -> None:
    folder.say(text=ARMS.replace("env.ROUTER, env.WEIGHT", "env").replace("WEIGHT=0.1", "OTHER=x"))
    assert len(folder.arms()) == 2


def test_an_arm_with_a_job_file_of_its_own(folder: Folder) -> None:
    """Two files that were copied and edited apart: what else was edited is found."""
    other = JOB.replace("name: ta", "name: other").replace("default", "tr")
    text = ARMS.replace("tr: [env.ROUTER=tr, env.WEIGHT=0.1]", "tr: tr.yaml")
    folder.say(text=text)
    (folder.path / "tr.yaml").write_text(other)
    default, tr = folder.arms()
    assert tr.job.name == "other-tr" and list(arms.differences(default, tr)) == ["env.ROUTER"]
    (folder.path / "tr.yaml").write_text(other.replace('"3"', '"4"'))
    with pytest.raises(InvalidFileError, match=r"differ in run\[2\]"):
        folder.arms()


def test_what_a_section_makes_is_no_difference_of_its_own(folder: Folder) -> None:
    default, tr = folder.arms()
    made = replace(tr, job=replace(tr.job, throughput=None, workdir="/made"))
    assert "workdir" not in arms.differences(default, made), "neither says it"
    assert "workdir" in arms.differences(default, replace(made, written=made.written | {"workdir"}))


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        (ARMS.replace("ROUTER=tr, env.WEIGHT=0.1", "ROUTER=default"), InvalidFileError, "the same job"),
        (ARMS.replace("env.WEIGHT]", "envv.X]"), UnknownNameError, "unknown setting 'envv'"),
        (ARMS.replace("env.WEIGHT]", "name]"), UnknownNameError, "unknown setting 'name'"),
        (ARMS.replace("  tr:", "  t r:"), InvalidFileError, "arms.yaml:4: found the arm 't r'"),
        (ARMS.replace("  tr:", f"  {'t' * 32}:"), InvalidFileError, "at most 31"),
        (ARMS.replace("settings", "setings"), UnknownNameError, "arms.yaml:1"),
        (ARMS.replace("[env.ROUTER=tr, env.WEIGHT=0.1]", "{a: b}"), InvalidFileError, "arms.yaml:2"),
        (ARMS.replace("env.ROUTER=tr,", "env.ROUTER,"), UsageError, "not an override"),
        (ARMS.replace("[env.ROUTER=tr, env.WEIGHT=0.1]", "none.yaml"), InvalidFileError, "none.yaml"),
        ("settings: []\narms: {default: [env.A=b]}\n", UsageError, "found 1 arm(s)"),
        ("", InvalidFileError, "arms.yaml: empty"),
        ("- a\n", InvalidFileError, "arms.yaml"),
    ],
)  # fmt: skip
def test_what_arms_must_not_say(text: str, kind: type[SlipworksError], said: str, folder: Folder) -> None:
    folder.say(text=text)
    with pytest.raises(kind) as refused:
        folder.arms()
    assert said in refused.value.message, refused.value.message


def test_no_common_checkpoints(folder: Folder) -> None:
    """One arm would go on from the other's."""
    folder.say(JOB + "checkpoints: {shared: mine}\n")
    with pytest.raises(InvalidFileError, match="have the checkpoints 'mine' in common"):
        folder.arms()
    folder.say(JOB + "checkpoints: true\n")
    assert all(arm.job.saved for arm in folder.arms())


def test_overrides_for_all(folder: Folder) -> None:
    for override in ("env.ROUTER=x", "env={}", "env.WEIGHT=1"):
        with pytest.raises(UsageError, match="cannot be set for all"):
            folder.arms(more=[override])
    with pytest.raises(UnknownNameError, match="unknown arm 'ttr'") as refused:
        folder.arms("default", "ttr")
    assert refused.value.hint == "did you mean 'tr'?"


class Slurm:
    """Takes the first jobs, as many as `takes`."""

    def __init__(self, takes: int = 9) -> None:
        self.takes, self.ids = takes, 0

    def submit(self, script: Path, options: Sequence[str], arguments: Sequence[str] = ()) -> str:
        if self.ids == self.takes:
            raise LaunchError("sbatch: error: no more")
        self.ids += 1
        return str(self.ids)

    def commented(self, prefix: str) -> dict[str, str]:
        return {}


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Slurm:
    made = Slurm()
    monkeypatch.setenv("SLIPWORKS_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("SLIPWORKS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(queueing, "queue", lambda site: made)
    image = Found(Chosen(reference="/images/x.sif", engine="apptainer", name="x", digest="sha256:1"))
    monkeypatch.setattr(chosen, "of", lambda *asked, **how: image)
    return made


def test_both_are_submitted(
    folder: Folder, slurm: Slurm, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ["compare", str(folder.path), "--arms", "default,tr", "--cluster", "generic"]
    assert main([*words, "--json"]) == 0
    said = capsys.readouterr()
    told = json.loads(said.out)["arms"]
    assert list(told) == ["default", "tr"] and [each["jobs"] for each in told.values()] == [["1"], ["2"]]
    assert "differ in env.ROUTER" in said.err and "note: two arms may get one node" in said.err
    found = [RunFolder(Path(each["run"])) for each in told.values()]
    assert [json.loads(each.job.read_bytes())["env"]["ROUTER"] for each in found] == ["default", "tr"]
    assert f"runner throughput {found[0].run_id} {found[1].run_id}" in said.err
    assert main([*words, "sbatch.exclusive=true"]) == 0
    said = capsys.readouterr()
    assert "one node" not in said.err
    lines = [line.split("\t") for line in said.out.splitlines()]
    assert [name for name, _ in lines] == ["default", "tr"] and all(Path(run).is_dir() for _, run in lines)


def test_nothing_is_submitted_of_arms_of_which_one_is_wrong(
    folder: Folder, slurm: Slurm, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder.say(text=ARMS.replace("WEIGHT=0.1", "WEIGHT=0.1, nodes=2"))
    assert main(["compare", str(folder.path), "--cluster", "generic"]) == 11
    assert slurm.ids == 0 and not (tmp_path / "runs").exists()
    assert "differ in nodes" in capsys.readouterr().err
    folder.say(
        text=ARMS.replace("[env.ROUTER, ", "[env.ROUTER, sbatch, ").replace("=0.1", "=0.1, sbatch.wrap=x")
    )
    assert main(["compare", str(folder.path), "--cluster", "generic"]) == 12
    assert slurm.ids == 0 and not (tmp_path / "runs").exists()


def test_a_second_arm_that_slurm_refuses_is_told_with_the_first(
    folder: Folder, slurm: Slurm, capsys: pytest.CaptureFixture[str]
) -> None:
    slurm.takes = 1
    assert main(["compare", str(folder.path), "--cluster", "generic", "--json"]) == LaunchError.code
    said = capsys.readouterr()
    (told,) = json.loads(said.out)["arms"].values()
    first = RunFolder(Path(told["run"]))
    assert f"tr was not submitted, but default was: runner cancel {first.run_id}" in said.err
    record = submitted.read(first)
    assert record and record.ids == ("1",)


def test_a_disk_that_is_full_between_the_arms(
    folder: Folder, slurm: Slurm, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = RunFolder.make

    def make(run: RunFolder) -> None:
        if "ta-tr" in run.root.name:
            raise OSError(28, "No space left on device")
        honest(run)

    monkeypatch.setattr(RunFolder, "make", make)
    assert main(["compare", str(folder.path), "--cluster", "generic", "--json"])
    said = capsys.readouterr()
    assert list(json.loads(said.out)["arms"]) == ["default"]
    assert "tr was not submitted, but default was: runner cancel " in said.err


def test_a_tag_that_moves_between_the_arms(
    folder: Folder, slurm: Slurm, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = (Found(Chosen(reference="x", engine="apptainer", digest=f"sha256:{each}")) for each in "12")
    monkeypatch.setattr(chosen, "of", lambda *asked, **how: next(images))
    assert main(["compare", str(folder.path), "--cluster", "generic"]) == 12
    assert "different images, sha256:1, sha256:2" in capsys.readouterr().err and slurm.ids == 0


def test_a_dry_run_writes_nothing(
    folder: Folder, slurm: Slurm, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ["compare", str(folder.path), "--cluster", "generic", "--dry-run"]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert text.startswith("# arm default\n#!/bin/bash\n") and "\n# arm tr\n#!/bin/bash\n" in text
    assert "--job-name=ta-tr\n" in text
    assert main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["arms"]
    assert "--job-name=ta-default\n" in told["default"]["script"]
    assert slurm.ids == 0 and not (tmp_path / "runs").exists()


def test_without_slurm_it_says_so(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(folder.path), "--cluster", "local"]) == 12
    assert "local has no Slurm" in capsys.readouterr().err
    assert main(["compare", str(folder.path / "none")]) == 11
