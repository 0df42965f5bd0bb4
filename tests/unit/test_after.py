"""What comes after a run: the job that is made of it, its place in the queue, what keeps it from there."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec import json

from kit import files
from kit.errors import InvalidFileError, LaunchError, UsageError
from runner import chosen, cli, job_checks, queueing, runs, submission, submitted
from runner.after import hub_upload, making, submitting
from runner.after.asked import After, Upload
from runner.job import Job, Mount
from runner.runs import RunFolder
from runner.submission import Places
from slurm import clusters
from slurm.script import render
from tests.unit.parts_watch import Reached, Slurm, attempt, reached, record, row, run, typed
from tests.unit.parts_watch import runs as watched
from tests.unit.test_queueing import found, site

__all__ = ["found", "reached", "watched"]


def job(**upload: Any) -> Job:
    said: dict[str, Any] = {"repo": "me/model", "partition": "cpu"}
    return Job(
        name="train", run="true", arch="cpu", nodes=4, gpus=4, checkpoints=True, env={"A": "b"},
        secrets=("WANDB_API_KEY",), restarts=2, sbatch={"account": "mine", "constraint": "gpu80"},
        binds=(Mount(source="/data", target="/data"),), after=After(upload=Upload(**said | upload)),
    )  # fmt: skip


def at(tmp_path: Path) -> Places:
    return submission.places(job(), runs.named(tmp_path / "runs", "train"), tmp_path, None)


class Queue:
    """Takes jobs, and keeps what was said of each; refuses those beyond `most`."""

    def __init__(self, most: int = 99) -> None:
        self.most = most
        self.asked: list[Sequence[str]] = []

    def submit(self, script: Path, options: Sequence[str], arguments: Sequence[str] = ()) -> str:
        if len(self.asked) == self.most:
            raise LaunchError("sbatch: error: QOSMaxSubmitJobPerUserLimit")
        self.asked.append(options)
        return str(10 + len(self.asked))

    def commented(self, prefix: str) -> dict[str, str]:
        return {}


def test_one_node_without_gpus_in_the_run_s_own_image(tmp_path: Path) -> None:
    there = at(tmp_path)
    made = making.upload(job(token="MY_TOKEN", leave=("*.pt",)), clusters.load("vista"), "vista", there)
    assert (made.nodes, made.gpus, made.ray, made.restarts, made.arch) == (1, 0, False, 0, "cpu")
    assert made.secrets == ("MY_TOKEN",) and made.env == {"A": "b", "HF_HUB_OFFLINE": "0"}
    assert made.sbatch["partition"] == "cpu" and made.sbatch["account"] == "mine"
    assert "constraint" not in made.sbatch
    assert [(each.source, each.target, each.read_only) for each in made.mounts] == [
        ("/data", "/data", False),
        (str(there.checkpoints), "/checkpoints", True),
        (str(there.run.root), making.TRAINED, True),
    ]
    program, argument = made.command[2:]
    assert program == Path(hub_upload.__file__).read_text()
    assert json.decode(argument) == {
        "repo": "me/model", "folder": None, "target": None, "kind": "model", "private": True,
        "revision": None, "leave": ["*.pt"], "always": False, "token": "MY_TOKEN",
        "message": "Upload of train",
        "checkpoints": "/checkpoints", "trained": making.TRAINED,
    }  # fmt: skip
    job_checks.check(made, lambda at: at)


def test_the_profile_says_where_nodes_without_gpus_are(tmp_path: Path) -> None:
    made = making.upload(job(partition=None), clusters.load("fasrc"), "fasrc", at(tmp_path))
    assert made.sbatch["partition"] == "test"
    assert making.upload(job(), clusters.load("fasrc"), "fasrc", at(tmp_path)).sbatch["partition"] == "cpu"
    with pytest.raises(UsageError, match="the profile of vista knows no partition") as failure:
        making.upload(job(partition=None), clusters.load("vista"), "vista", at(tmp_path))
    assert failure.value.hint and "after.upload.partition=" in failure.value.hint


@pytest.mark.parametrize(("name", "out"), [("jureca", True), ("vista", False)])
def test_it_takes_the_way_out_where_nodes_have_no_internet(tmp_path: Path, name: str, out: bool) -> None:
    assert making.upload(job(), clusters.load(name), name, at(tmp_path)).egress is out


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"repo": "model"}, "after.upload.repo: found 'model', expected a repository"),
        ({"folder": "../x"}, "after.upload.folder: found '../x', expected a path below"),
        ({"target": "/x"}, "after.upload.target: found '/x'"),
        ({"token": "a b"}, "after.upload.token: found 'a b', expected the name of a secret"),
        ({"partition": ""}, "after.upload.partition: found an empty partition"),
        ({"sbatch": {"dependency": "x"}}, "after.upload.sbatch.dependency: found dependency"),
    ],
)
def test_what_it_may_not_say(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidFileError) as failure:
        job_checks.check(job(**wrong), lambda at: at)
    assert failure.value.message.startswith(told)


def test_there_must_be_checkpoints() -> None:
    bare = Job(name="j", run="true", after=After(upload=Upload(repo="me/model")))
    with pytest.raises(InvalidFileError, match="no `checkpoints: true`"):
        job_checks.check(bare, lambda at: at)


def test_it_waits_for_every_job_of_the_chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However they end: which of them succeeds nobody knows. Its token is in its own folder alone, 0600."""
    monkeypatch.setenv("HF_TOKEN", "hf_s3cret")
    there, queue = site(tmp_path), Queue()
    first = queueing.prepared(job(), there, at(tmp_path).run, dry=False)
    then = submitting.prepared(first, there, dry=False)
    assert then and not any((tmp_path / "runs").glob("*"))
    made = queueing.submit(first, {"WANDB_API_KEY": "k"}, queue)
    submitting.submit(then, made, first.at.run, queue)
    assert [each for each in queue.asked[3] if "dependency" in each] == ["--dependency=afterany:11:12:13"]
    after = submitting.of(first.at.run)
    assert after and after.root.name.startswith("train-upload-")
    wrote = submitted.read(after)
    assert wrote and wrote.ids == ("14",) and wrote.wanted == 1
    assert after.secrets.stat().st_mode & 0o777 == 0o600 and b"hf_s3cret" in after.secrets.read_bytes()
    rest = [each for each in (tmp_path / "runs").rglob("*") if each.is_file() and each != after.secrets]
    assert rest and not any(b"s3cret" in each.read_bytes() for each in rest)
    script = render(then.ready.batch)
    assert "--partition=cpu" in script and "--cpus-per-task=4" in script and "gres" not in script


def test_without_its_token_nothing_at_all_is_submitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    there = site(tmp_path)
    first = queueing.prepared(job(), there, at(tmp_path).run, dry=False)
    with pytest.raises(UsageError, match="HF_TOKEN"):
        submitting.prepared(first, there, dry=False)
    assert submitting.prepared(first, there, dry=True), "a dry run needs none"


def test_where_the_queue_is_full_the_run_itself_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_s3cret")
    there, queue = site(tmp_path), Queue(most=3)
    first = queueing.prepared(job(), there, at(tmp_path).run, dry=False)
    then = submitting.prepared(first, there, dry=False)
    assert then
    made = queueing.submit(first, {}, queue)
    submitting.submit(then, made, first.at.run, queue)
    assert "is not in the queue, and nothing will be uploaded: sbatch: error" in capsys.readouterr().err
    assert made.state == "submitted" and not then.ready.at.run.secrets.exists()


@pytest.mark.parametrize("place", ["the run's folder", "its own"])
def test_a_full_disk_behind_the_run_is_told_and_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    """An error would say that the run itself is not in the queue, and it would be submitted twice."""
    monkeypatch.setenv("HF_TOKEN", "hf_s3cret")
    there, queue = site(tmp_path), Queue()
    first = queueing.prepared(job(), there, at(tmp_path).run, dry=False)
    then = submitting.prepared(first, there, dry=False)
    made = queueing.submit(first, {}, queue)

    def full(*asked: object, **how: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if place == "its own":
        monkeypatch.setattr(RunFolder, "make", full)
    else:
        monkeypatch.setattr(files, "write", full)
    submitting.submit(then, made, first.at.run, queue)
    assert len(queue.asked) == 3, "the run's chain alone"
    said = capsys.readouterr().err
    assert "warning: train-upload-" in said and "nothing will be uploaded: [Errno 28] No space" in said
    assert submitting.of(first.at.run) is None


class Broken(BaseException):
    """Nothing that is caught."""


@pytest.mark.parametrize("verb", ["submit", "compare"])
def test_the_answer_stands_whatever_becomes_of_what_comes_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_s3cret")
    monkeypatch.setenv("SLIPWORKS_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("SLIPWORKS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(queueing, "queue", lambda site: Queue())

    def broken(*asked: object) -> None:
        raise Broken

    monkeypatch.setattr(submitting, "submit", broken)
    with pytest.raises(Broken):
        cli.main([verb, str(written(tmp_path, verb)), "--cluster", "generic"])
    (made,) = (tmp_path / "runs").glob("train*")
    assert capsys.readouterr().out.rstrip("\n").rpartition("\t")[2] == str(made)


@pytest.mark.parametrize("verb", ["submit", "compare"])
def test_a_dry_run_refuses_and_tells_what_comes_after(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    words = [verb, str(written(tmp_path, verb)), "--cluster", "generic", "--dry-run"]
    assert cli.main(words) == 0
    said = capsys.readouterr().err
    assert said.count(", an upload to me/model") == (2 if verb == "compare" else 1)
    path = tmp_path / "job.yaml"
    path.write_text(path.read_text().replace(", partition: cpu", ""))
    assert cli.main(words) == UsageError.code
    assert "the profile of generic knows no partition" in capsys.readouterr().err


def written(folder: Path, verb: str) -> Path:
    """A job with an upload: its file, or for `compare` the folder, with two arms."""
    (folder / "job.yaml").write_text(
        "name: train\narch: cpu\nrun: 'true'\ncheckpoints: true\n"
        "after: {upload: {repo: me/model, partition: cpu}}\n"
    )
    (folder / "arms.yaml").write_text("settings: [env]\narms: {a: [env.A=1], b: [env.A=2]}\n")
    return folder if verb == "compare" else folder / "job.yaml"


def test_cancelling_a_run_ends_what_comes_after_it(
    watched: Path, reached: Reached, capsys: pytest.CaptureFixture[str]
) -> None:
    first, after = run(watched, "train"), run(watched, "train-upload", "0badcaf1")
    record(first, "10")
    record(after, "11")
    attempt(first, job="10")
    after.secrets.write_text("{}")
    (first.root / submitting.FILE).write_text(f'{{"run": "{after.root.name}"}}')
    slurm = reached(Slurm(row("10", "RUNNING"), row("11", "PENDING", comment="slipworks:0badcaf1:0")))
    code, _, err = typed(capsys, "cancel", "0badcafe")
    assert code == 0, err
    assert slurm.cancelled == ["11", "10"] and not after.secrets.exists()
    assert after.finished.read_text() == "cancelled\n"


def test_what_comes_after_may_be_gone(watched: Path) -> None:
    first = run(watched)
    assert submitting.of(first) is None
    (first.root / submitting.FILE).write_text('{"run": "gone-20261121-120000-0badcaf1"}')
    assert submitting.of(first) is None
    (first.root / submitting.FILE).write_text("{half")
    with pytest.raises(InvalidFileError):
        submitting.of(RunFolder(first.root))


def test_no_image_is_looked_for_twice_by_another_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both run in the same one."""
    monkeypatch.setenv("HF_TOKEN", "x")
    asked: list[Job] = []
    honest = chosen.of

    def of(job: Job, *more: Any, **how: Any) -> Any:
        asked.append(job)
        return honest(job, *more, **how)

    monkeypatch.setattr(chosen, "of", of)
    there = site(tmp_path)
    submitting.prepared(queueing.prepared(job(), there, at(tmp_path).run, dry=False), there, dry=False)
    assert {(each.arch, each.line, each.base, each.image) for each in asked} == {("cpu", None, None, None)}
