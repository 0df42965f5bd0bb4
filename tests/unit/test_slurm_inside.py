"""What containers get to submit jobs: shells on this machine, and jobs that ask for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from containers.engine import Bind
from containers.engines.apptainer import Apptainer
from kit import settings
from kit.errors import MissingToolError
from runner import chosen, cli, images, queueing, runs, shells, site, slurm_inside
from runner.chosen import Chosen, Found
from runner.job import Job, Mount
from runner.site import Site
from slurm import host_client
from slurm.client import HOST
from tests.golden.commands import USER


def test_a_shell_has_the_users_folders_and_the_hosts_client(
    debian: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    (home / "work").mkdir(parents=True)
    for name, value in {
        "HOME": str(home),
        "SLIPWORKS_RUNS": str(home / "runs"),
        "SLIPWORKS_CACHE": str(tmp_path),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(home / "work")
    here = site.chosen({"cluster": "generic"})
    facts = host_client.facts("/usr/bin", {}, debian, debian)
    given = {"SECRET": "s", "SLURM_JOB_ID": "1", "TERM": "xterm", "SLIPWORKS_TORCH_INDEX": "https://me:pw@i"}
    run = shells.container(
        Chosen(reference="x.sif", engine="apptainer"), here, facts, given, ["runner", "status"]
    )
    assert run.workdir == str(home / "work")
    assert run.argv[-2:] == ("runner", "status")
    assert run.env == {
        "TERM": "xterm", "HOME": str(home), "PYTHONNOUSERSITE": "1", "SLURM_CONF": "/etc/slurm/slurm.conf",
        "SLIPWORKS_CLUSTER": "generic", "SLIPWORKS_RUNS": str(home / "runs"),
        "SLIPWORKS_CACHE": str(tmp_path), "SLIPWORKS_HOST_PROGRAMS": "/usr/bin",
    }  # fmt: skip
    targets = {bind.target: bind.read_only for bind in run.binds}
    assert targets[str(tmp_path)] is False
    assert str(home) not in targets, "it lies in a folder that is there already"
    assert all(targets[each] for each in targets if each.startswith(HOST))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, debian: Path) -> Site:
    """The user of a login node like `debian`, whose home is reached by a link."""
    (tmp_path / "disk/home/work").mkdir(parents=True)
    home = tmp_path / "home"
    home.symlink_to(tmp_path / "disk/home")
    given = {
        "HOME": str(home), "SLIPWORKS_RUNS": str(tmp_path / "runs"), "MY_API_TOKEN": "t",
        "SCRATCH": str(tmp_path / "scratch"), "SLIPWORKS_CACHE": str(tmp_path / "cache"),
        "SLURM_CONF": str(tmp_path / "odd.conf"),
        "SLIPWORKS_RANK": "3", "SLIPWORKS_NODES": "4",
    }  # fmt: skip
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(home / "work")
    found = host_client.facts("/usr/bin", {}, debian, debian)
    monkeypatch.setattr(slurm_inside, "client", lambda environment: found)
    monkeypatch.setattr(
        chosen, "of", lambda *asked, **how: Found(Chosen(reference="/x.sif", engine="apptainer"))
    )
    (tmp_path / "config").mkdir()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return _site(monkeypatch)


def _site(monkeypatch: pytest.MonkeyPatch) -> Site:
    """Whatever settings are followed from now on is undone with the test."""
    monkeypatch.setattr(settings, "_followed", [dict])
    settings.user_file().parent.mkdir()
    settings.user_file().write_text('[clusters.mine]\nscratch = "${SCRATCH}/me"\n')
    return site.chosen({"cluster": "mine"})


def job(**said: object) -> Job:
    return Job(**{"name": "j", "run": "true", "arch": "cpu", **said})  # type: ignore[arg-type]


def test_a_job_that_submits_has_what_its_user_has(here: Site, tmp_path: Path) -> None:
    mounts = (Mount(source="/else", target=str(tmp_path / "runs")), Mount(source="/h", target="/etc/hosts"))
    asked = job(submits=True, env={"SCRATCH": "mine"}, binds=mounts)
    ready = queueing.prepared(asked, here, runs.named(tmp_path / "runs", "j"), dry=False)
    plan, batch = ready.plan, ready.batch
    assert plan.env == {
        "HOME": str(tmp_path / "home"), "SCRATCH": "mine", "SLIPWORKS_CLUSTER": "mine",
        "SLIPWORKS_RUNS": str(tmp_path / "runs"), "SLIPWORKS_CACHE": str(tmp_path / "cache"),
        "SLIPWORKS_HOST_PROGRAMS": "/usr/bin", "PYTHONNOUSERSITE": "1",
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
    }  # fmt: skip
    assert (plan.path, plan.keep) == (("/slipworks/bin",), ("SLURM_CONF",))
    there = {each.target: each for each in batch.present}
    own = {str(tmp_path / name) for name in ("home", "disk/home", "cache", "config/slipworks", "scratch/me")}
    assert {each for each in there if each.startswith(str(tmp_path))} == own, "a bind of the job's own wins"
    assert not any(there[each].read_only for each in own)
    assert there["/run/munge"].read_only and there[f"{HOST}/usr"].source == "/usr"
    assert "/etc/hosts" not in there
    first = list(batch.container).index(f"--mount=type=bind,source={ready.at.run.root},target={runs.INSIDE}")
    assert first == batch.words_at, "what may lie in those comes behind"


def test_other_jobs_have_nothing_of_it(here: Site, tmp_path: Path) -> None:
    ready = queueing.prepared(job(), here, runs.named(tmp_path / "runs", "j"), dry=False)
    assert (ready.batch.present, ready.batch.submits, ready.plan.env, ready.plan.path) == ((), False, {}, ())


def test_on_this_machine_there_is_nothing_to_submit_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(images, "runs", lambda name: Apptainer(None, USER))
    path = tmp_path / "job.yaml"
    path.write_text("name: j\nimage: a.example/b:c\nsubmits: true\nrun: 'true'\n")
    assert cli.main(["submit", str(path), "--cluster", "local", "--dry-run"]) == 0
    assert "note: there is no Slurm here" in capsys.readouterr().err


def test_without_a_client_such_a_job_is_refused_before_it_waits(
    here: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def none(environment: object) -> None:
        raise MissingToolError("sbatch is not on PATH here")

    monkeypatch.setattr(slurm_inside, "client", none)
    folder = runs.named(tmp_path / "runs", "j")
    with pytest.raises(
        MissingToolError, match=r"Slurm's client cannot be taken along: sbatch is not"
    ) as refused:
        queueing.prepared(job(submits=True), here, folder, dry=False)
    assert "[clusters.mine]" in (refused.value.hint or "")
    queueing.prepared(job(submits=True), here, folder, dry=True)
    assert "by ssh to a login node" in capsys.readouterr().err
    settings.user_file().write_text('[clusters.mine]\nlogin = ["login1"]\n')
    by_ssh = queueing.prepared(job(submits=True), site.chosen({"cluster": "mine"}), folder, dry=False)
    assert str(tmp_path / "home") in {each.target for each in by_ssh.batch.present}


def test_in_a_container_it_is_the_hosts_client_that_goes_on(debian: Path, tmp_path: Path) -> None:
    """As the outer container has it below HOST: the programs are in another folder there."""
    programs = debian / host_client.PROGRAMS.lstrip("/")
    programs.symlink_to("usr/bin")
    told = {slurm_inside.HOST_PROGRAMS: "/opt/slurm/bin"}
    found = slurm_inside.client(told, debian)
    assert found.programs == "/opt/slurm/bin"
    assert ("/opt/slurm/bin", f"{HOST}{host_client.PROGRAMS}") in host_client.needed(found, HOST)
    with pytest.raises(MissingToolError, match="SLIPWORKS_HOST_PROGRAMS is not set"):
        slurm_inside.client({}, debian)
    with pytest.raises(MissingToolError, match="sbatch is not on PATH"):
        slurm_inside.client({"PATH": str(tmp_path)}, tmp_path / "none")


def test_folders_within_others_come_once(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "a")
    found = slurm_inside.outermost(
        [Path("/"), tmp_path / "a/b", tmp_path / "a", tmp_path / "link/b", tmp_path / "c"],
        [Bind(Path("/c"), str(tmp_path / "c"))],
    )
    assert [each.target for each in found] == [str(tmp_path / "a"), str(tmp_path / "link/b")]
