"""From a job to Slurm's queue: what is refused, told, written, and left where nothing could be submitted."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path

import pytest
from msgspec.structs import replace

from kit import exact, settings
from kit.errors import InvalidFileError, LaunchError, NotFoundError, UsageError
from kit.settings import Settings, Sourced
from runner import chosen, cli, launch, queueing, runs, submission, submitted
from runner.chosen import Chosen, Found
from runner.job import Checkpoints, Code, Job, Mount
from runner.runs import RunFolder
from runner.site import Site
from runner.site import chosen as chosen_site
from slurm import clusters
from slurm.clusters import Cluster, Driver, Profile

ODD = os.fsdecode(b'it\'s "odd" $(x) \xff')


class Slurm:
    """Takes every job, or none."""

    def __init__(self, refuses: bool = False) -> None:
        self.refuses, self.scripts = refuses, 0

    def submit(self, script: Path, options: Sequence[str], arguments: Sequence[str] = ()) -> str:
        assert stat.S_IMODE(script.parent.stat().st_mode) == 0o700
        if self.refuses:
            raise LaunchError("sbatch: error: invalid partition specified: x")
        self.scripts += 1
        return str(self.scripts)

    def commented(self, prefix: str) -> dict[str, str]:
        return {}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return runs.named(tmp_path / "runs", "j")


@pytest.fixture(autouse=True)
def found(monkeypatch: pytest.MonkeyPatch) -> Found:
    """An image that is there."""
    told = Found(Chosen(reference="/images/x.sif", engine="apptainer", name="x", driver_floor="580"))
    monkeypatch.setattr(chosen, "of", lambda *asked, **how: told)
    return told


def site(tmp_path: Path, **said: object) -> Site:
    cluster: Cluster = replace(clusters.load("generic"), **said)
    own = Settings(cache=str(tmp_path / "cache"), runs=str(tmp_path / "runs"))
    sources = dict.fromkeys(clusters.FIELDS, "slurm/clusters/vista.toml")
    return Site(
        name="vista", how="", profile=Profile(name="vista", cluster=cluster, sources=sources),
        sourced=Sourced(own, dict.fromkeys(settings.NAMES, "default")),
    )  # fmt: skip


def job(**said: object) -> Job:
    return Job(**{"name": "j", "run": "true", "arch": "cpu", **said})  # type: ignore[arg-type]


def test_no_account_is_refused_and_told_by_a_dry_run(
    tmp_path: Path, folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    there = site(tmp_path, needs_account=True)
    with pytest.raises(UsageError) as failure:
        queueing.prepared(job(), there, folder, dry=False)
    assert failure.value.hint and "[clusters.vista]" in failure.value.hint
    ready = queueing.prepared(job(), there, folder, dry=True)
    assert "account" not in ready.batch.options and "no account is set" in capsys.readouterr().err
    mine = queueing.prepared(job(sbatch={"account": "me"}), there, folder, dry=False)
    assert mine.batch.options["account"] == "me"
    theirs = queueing.prepared(job(), replace_account(there, "us"), folder, dry=False)
    assert theirs.batch.options["account"] == "us"


def test_the_account_of_sbatchs_variable_counts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SBATCH_ACCOUNT", "mine")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    there = chosen_site({"cluster": "vista"}, lenient=True)
    assert (there.cluster.account, there.profile.sources["account"]) == ("mine", "SBATCH_ACCOUNT")
    assert cli.main(["config", "--cluster", "vista"]) == 0
    assert re.search(r"clusters\.vista\.account +mine  \(SBATCH_ACCOUNT\)", capsys.readouterr().out)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert chosen_site({"cluster": "vista"}, lenient=True).cluster.account is None
    monkeypatch.delenv("SLURM_JOB_ID")
    assert chosen_site({"cluster": "local"}).cluster.account is None


def replace_account(there: Site, account: str) -> Site:
    cluster = replace(there.cluster, account=account)
    return replace(there, profile=replace(there.profile, cluster=cluster))


@pytest.mark.parametrize(
    ("restarts", "checkpoints", "told"),
    [(2, False, True), (2, Checkpoints(shared="a"), True), (2, True, False), (0, False, False)],
)
def test_restarts_that_may_never_come_are_told(
    tmp_path: Path, folder: RunFolder, capsys: pytest.CaptureFixture[str],
    restarts: int, checkpoints: bool | Checkpoints, told: bool,
) -> None:  # fmt: skip
    queueing.prepared(job(restarts=restarts, checkpoints=checkpoints), site(tmp_path), folder, dry=True)
    assert capsys.readouterr().err.count("without `checkpoints: true`") == told


@pytest.mark.parametrize(
    ("version", "gpus", "told"), [("565.57", 1, True), ("580", 1, False), ("565", 0, False)]
)
def test_a_dated_driver_warns(
    tmp_path: Path, folder: RunFolder, capsys: pytest.CaptureFixture[str], version: str, gpus: int, told: bool
) -> None:
    there = site(tmp_path, driver=Driver(version=version, seen="2026-11"))
    queueing.prepared(job(gpus=gpus), there, folder, dry=True)
    assert ("warning: the driver of vista was" in capsys.readouterr().err) == told


def test_scratch_that_is_not_set_here(
    tmp_path: Path, folder: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    there = site(tmp_path, scratch="$SCRATCH_OF_VISTA/x")
    with pytest.raises(InvalidFileError, match="SCRATCH_OF_VISTA"):
        queueing.prepared(job(), there, folder, dry=False)
    queueing.prepared(job(), there, folder, dry=True)
    assert "SCRATCH_OF_VISTA is not set here" in capsys.readouterr().err
    monkeypatch.setenv("SCRATCH_OF_VISTA", "/scratch/me")
    at = queueing.prepared(job(checkpoints=True), there, folder, dry=False).at
    assert at.scratch == Path("/scratch/me/x/slipworks/job-caches")
    assert at.checkpoints == Path("/scratch/me/x/slipworks/checkpoints") / folder.root.name


def test_checkpoints_are_a_runs_own_unless_a_name_is_shared(tmp_path: Path, folder: RunFolder) -> None:
    there = site(tmp_path)
    own = queueing.prepared(job(checkpoints=True), there, folder, dry=True).at
    assert own.checkpoints == tmp_path / "checkpoints" / folder.root.name
    shared = job(checkpoints=Checkpoints(target="/ck", shared="grpo"))
    at = queueing.prepared(shared, there, folder, dry=True).at
    assert at.checkpoints == tmp_path / "checkpoints/shared-grpo"
    assert queueing.prepared(job(), there, folder, dry=True).at.checkpoints is None


def test_all_that_a_node_needs_is_written_before_sbatch(tmp_path: Path, folder: RunFolder) -> None:
    fork = tmp_path / "fork"
    fork.mkdir()
    (fork / "module.py").write_text("x = 1\n")
    asked = job(
        nodes=2, gpus=1, restarts=1, checkpoints=True, code=(Code(source=str(fork)),), env={"ODD": ODD},
        binds=(Mount(source=str(fork), target="/x", read_only=True),), secrets=("A",), keep_env=("B_*",),
    )  # fmt: skip
    ready = queueing.prepared(asked, site(tmp_path), folder, dry=False)
    record = queueing.submit(ready, {"A": ODD}, Slurm())
    assert record.ids == ("1", "2") and submitted.read(folder) == record
    plan = launch.read(folder.launch)
    assert plan == ready.plan and plan.env["ODD"] == ODD and plan.code == ("/slipworks-run/code/0",)
    assert (plan.checkpoints, plan.restarts, plan.gpus, plan.keep) == ("/checkpoints", 1, 1, ("B_*",))
    assert not plan.attended and plan.driver_floor == "580"
    assert exact.decode(folder.secrets.read_bytes(), dict[str, str]) == {"A": ODD}
    private = (folder.secrets, folder.token, folder.launch, folder.job)
    assert {stat.S_IMODE(each.stat().st_mode) for each in private} == {0o600}
    assert (folder.code / "0/module.py").read_text() == "x = 1\n"
    script = folder.script.read_bytes()
    assert os.fsencode(ODD) not in script and b"restarts=1" in script
    assert b"target=/checkpoints" in script and b"target=/x,ro" in script


def test_a_dry_run_writes_nothing(tmp_path: Path, folder: RunFolder) -> None:
    queueing.prepared(job(checkpoints=True), site(tmp_path), folder, dry=True)
    assert not folder.root.exists() and not (tmp_path / "checkpoints").exists()


def test_where_nothing_is_submitted_no_secret_is_left(tmp_path: Path, folder: RunFolder) -> None:
    ready = queueing.prepared(job(secrets=("A",)), site(tmp_path), folder, dry=False)
    with pytest.raises(LaunchError, match="invalid partition"):
        queueing.submit(ready, {"A": "s"}, Slurm(refuses=True))
    assert not folder.secrets.exists() and not folder.token.exists()
    record = submitted.read(folder)
    assert record and record.state == "failed"


def test_the_script_adds_the_nodes_words_before_all_mounts(tmp_path: Path, folder: RunFolder) -> None:
    batch = queueing.prepared(job(), site(tmp_path), folder, dry=True).batch
    words = list(batch.container)
    assert words[batch.words_at] == f"--mount=type=bind,source={folder.root},target={runs.INSIDE}"
    assert not any("--mount" in word for word in words[: batch.words_at])
    assert words[-5:] == ["/images/x.sif", submission.RUNNER, "node", "--run", runs.INSIDE]
    assert batch.temporary and "--scratch=/tmp" not in batch.container


def test_an_image_that_is_refused_leaves_nothing(
    tmp_path: Path, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*asked: object, **how: object) -> Found:
        raise NotFoundError("not built")

    monkeypatch.setattr(chosen, "of", none)
    with pytest.raises(NotFoundError):
        queueing.prepared(job(), site(tmp_path), folder, dry=False)
    assert not folder.root.exists()
