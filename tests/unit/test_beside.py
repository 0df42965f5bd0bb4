"""Containers beside a job's own: what a job may say of them, and what its script and its nodes get."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kit.errors import InvalidFileError, UnsupportedError
from kit.shell import quote
from runner import batching, chosen, cli, job_checks, launch, queueing, runs, submission
from runner.beside import checks
from runner.beside.asked import SOCKET, Podman
from runner.chosen import Chosen, Found
from runner.egress.asked import Egress
from runner.job import Job
from slurm.script import Batch, Beside, render
from tests.unit.test_queueing import site


def job(**said: Any) -> Job:
    return Job(**({"name": "j", "run": "true", "image": "host/x:1", "podman": True} | said))


@pytest.fixture
def by_podman(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        chosen, "of", lambda *asked, **how: Found(Chosen(reference="0badcafe", engine="podman"))
    )


def test_a_script_pulls_and_opens_before_the_container(tmp_path: Path, by_podman: None) -> None:
    asked = job(podman=Podman(prepull=("host/a:1", "host/b:1"), at_once=2, root="/local/it's"))
    folder = runs.named(tmp_path / "runs", "j")
    ready = queueing.prepared(asked, site(tmp_path, engines=("podman",)), folder, dry=False)
    assert ready.batch.beside == Beside(folder="/run/slipworks-podman", data_root="/local/it's", at_once=2)
    script = render(ready.batch)
    steps = [
        script.index(f"\n    {each}\n")
        for each in ("podman_folders", "pull_beside", "open_podman", "make_container")
    ]
    assert steps == sorted(steps)
    assert "$(timeout --foreground 30m podman " in script, "other nodes wait for a node that pulls"
    place = quote("/local/it's")
    assert f"data_root={place} at_once=2" in script
    assert ready.plan.env["DOCKER_HOST"] == ready.plan.env["CONTAINER_HOST"] == f"unix://{SOCKET}"
    folder.make()
    submission.fill(folder, asked, ready.plan, ready.found.chosen)
    assert folder.prepull.read_text() == "host/a:1\nhost/b:1\n"
    assert launch.read(folder.launch).env["DOCKER_HOST"] == f"unix://{SOCKET}"


def test_other_jobs_have_nothing_of_it(tmp_path: Path, by_podman: None) -> None:
    folder = runs.named(tmp_path / "runs", "j")
    ready = queueing.prepared(job(podman=False), site(tmp_path, engines=("podman",)), folder, dry=False)
    assert ready.batch.beside is None and "DOCKER_HOST" not in ready.plan.env
    assert "open_podman" not in render(ready.batch) and checks.of(job(podman=False)) is None


def test_the_job_itself_must_run_by_podman(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="runs by apptainer") as failure:
        batching._beside(job(), "apptainer")
    assert failure.value.hint == "--engine podman"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"podman": Podman(prepull=("a b",))}, "podman.prepull[0]: found 'a b', expected an image"),
        ({"podman": Podman(prepull=("a:1", "-x"))}, "podman.prepull[1]: found '-x'"),
        ({"podman": Podman(prepull=("a:1\nb:1",))}, "podman.prepull[0]: found"),
        ({"podman": Podman(at_once=0)}, "podman.at_once: found 0 at once, expected 1 to 64"),
        ({"podman": Podman(root="local")}, "podman.root: found 'local', expected an absolute path"),
        ({"env": {"DOCKER_HOST": "x"}}, "podman: found another Docker host"),
        ({"egress": Egress(docker="127.0.0.1:7001")}, "podman: found another Docker host"),
    ],
)
def test_what_it_may_not_say(said: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidFileError) as failure:
        job_checks.check(job(**said), lambda at: at)
    assert failure.value.message.startswith(told)


def test_without_slurm_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "job.yaml"
    file.write_text("name: j\narch: cpu\npodman: true\nrun: 'true'\n")
    monkeypatch.setenv("SLIPWORKS_CLUSTER", "local")
    assert cli.main(["submit", str(file), "--dry-run"]) == UnsupportedError.code
    assert "there is no Slurm here" in capsys.readouterr().err


def test_as_root_nothing_is_kept_apart() -> None:
    made = Batch(options={}, run=Path("/run/x"), nodes=1, container=["podman", "run", "x"], rank_token="@",
                 beside=Beside(folder="/f"))  # fmt: skip
    script = render(made)
    assert script.index('[ "$EUID" -ne 0 ] || fail 21') < script.index("\n    pull_beside\n")
