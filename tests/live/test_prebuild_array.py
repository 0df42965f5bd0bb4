"""SIFs by a job array on a real Slurm, as an ordinary user, each task in the real cpu image."""

from __future__ import annotations

import pwd
from pathlib import Path

import pytest
from msgspec import json

from image_cache.store import Store
from runner import run_files, submitted
from runner.runs import RunFolder
from tests.live.parts_engines import User
from tests.live.parts_jobs import LIVES, Login, logs
from tests.live.parts_sifs import listed, pushed
from tests.live.parts_slurm import Slurm, Starter
from tests.live.parts_slurm_conf import Shape
from tests.live.parts_slurm_daemons import until

pytestmark = [pytest.mark.live, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def cluster(slurm_like: Starter) -> Slurm:
    """Two nodes, which reach what listens on this machine."""
    return slurm_like(Shape(count=2, cpus=8))


@pytest.fixture(scope="module")
def login(cluster: Slurm, cached_sif: Path, ordinary_user: User) -> Login:
    return Login(cluster, ordinary_user, cached_sif)


@pytest.fixture
def bases(registry_host: str, tiny_root: Path, tmp_path: Path, request: pytest.FixtureRequest) -> list[str]:
    """References of six images that are there, of some megabytes each."""
    names = [f"{request.node.name.removeprefix('test_')[:12].strip('_')}{number}" for number in range(6)]
    return pushed(Store(tmp_path / "pushed"), tiny_root, registry_host, names, 8_000_000)


def spread(login: Login, bases: list[str], *words: str) -> list[tuple[RunFolder, str]]:
    """The run and the job of each task."""
    place = login.slurm.shared / "lists"
    place.mkdir(exist_ok=True)
    place.chmod(0o755)
    options = ("--json", "time=10", "sbatch.cpus-per-task=4", *words)
    told = login.type("prebuild", "sif", str(listed(place, bases)), *options)
    assert told.code == 0, told.err
    assert "tasks of job" in told.err
    return [(RunFolder(Path(each["run"])), each["job"]) for each in json.decode(told.out)]


def states(login: Login, tasks: list[tuple[RunFolder, str]]) -> list[str]:
    ask = ("squeue", "--array", "--noheader", "--states=all", "--format=%T")
    return [login.slurm.run(*ask, f"--jobs={id}").stdout.strip() for _, id in tasks]


def ended(login: Login, tasks: list[tuple[RunFolder, str]], seconds: float = 400) -> list[str]:
    """The state of each task once all have ended."""

    def told() -> str:
        return "\n".join(logs(folder) for folder, _ in tasks)

    until(lambda: not set(states(login, tasks)) & set(LIVES), "the tasks' ends", seconds, told)
    return states(login, tasks)


def uid(login: Login) -> int:
    return pwd.getpwnam(login.name).pw_uid


def made(login: Login, part: str) -> dict[str, str]:
    """Reference -> what became of it, by the newest report of a part."""
    found = login.cache.glob(f"prebuilds/sifs-*/*/report-{part}.json")
    path = max(found, key=lambda each: each.stat().st_mtime_ns)
    return {each["reference"]: each["state"] for each in json.decode(path.read_bytes())["images"]}


def test_two_tasks_share_a_list_and_one_names_what_fails(
    login: Login, bases: list[str], registry_host: str
) -> None:
    gone = f"{registry_host}/bases/gone:1"
    tasks = spread(login, [*bases[:5], gone], "--slurm", "2")
    assert len({id.partition("_")[0] for _, id in tasks}) == 1, "one array"
    assert [id.partition("_")[2] for _, id in tasks] == ["1", "2"]
    assert ended(login, tasks) == ["COMPLETED", "FAILED"], "\n".join(logs(each) for each, _ in tasks)
    whole = made(login, "1-of-2") | made(login, "2-of-2")
    assert whole == {**dict.fromkeys(bases[:5], "made"), gone: "failed"}
    told = login.type("status", "--json")
    known = {each["run"]: each["state"] for each in json.decode(told.out)} if told.code == 0 else {}
    assert {known.get(folder.root.name) for folder, _ in tasks} == {"completed", "failed"}, told.out
    for folder, id in tasks:
        record = submitted.read(folder)
        assert record and record.ids == (id,)
        assert [each.job for each in run_files.read(folder).tries] == [id]
    left = [each for each in Path("/tmp").glob("slipworks-[0-9]*-0.*") if each.stat().st_uid == uid(login)]
    assert not left, "nothing stays on a node"


def test_a_task_that_is_killed_is_requeued_and_goes_on(login: Login, bases: list[str]) -> None:
    tasks = spread(login, bases, "--slurm", "1", "--jobs", "1")
    ((folder, id),) = tasks
    sifs = login.cache / "images/sif"
    before = {each.name for each in sifs.glob("*.sif")}

    def new() -> set[str]:
        return {each.name for each in sifs.glob("*.sif")} - before

    until(lambda: bool(new()), "the first SIF", 300, lambda: logs(folder))
    login.slurm.run("scontrol", "requeue", id)
    until(
        lambda: states(login, tasks) == ["PENDING"], "the task to be queued again", 60, lambda: logs(folder)
    )
    login.slurm.run("scontrol", "update", f"JobId={id}", "StartTime=now+2")  # see Slurm.begin_anew
    until(lambda: folder.attempt(2).folder.is_dir(), "the second attempt", 300, lambda: logs(folder))
    assert ended(login, tasks) == ["COMPLETED"], logs(folder)
    became = set(made(login, "1-of-1").values())
    assert "there" in became and became <= {"there", "made"}, became
    assert {name for name in before if not (sifs / name).exists()} == set()


def test_a_cancelled_task_is_made_up_for_by_the_same_command(login: Login, bases: list[str]) -> None:
    tasks = spread(login, bases, "--slurm", "2", "--most", "1")
    (first, _), (second, waiting) = tasks
    login.slurm.run("scontrol", "hold", waiting)  # else the first may end before `cancel` has begun
    told = login.type("cancel", second.run_id)
    assert told.code == 0 and f"job {waiting}" in told.out + told.err, told.err
    assert ended(login, tasks) == ["COMPLETED", "CANCELLED"], logs(first)
    assert "cancelled" in login.type("status", second.run_id).out
    again = spread(login, bases, "--slurm", "2")
    assert ended(login, again) == ["COMPLETED", "COMPLETED"]
    whole = made(login, "1-of-2") | made(login, "2-of-2")
    assert sorted(whole.values()) == ["made"] * 3 + ["there"] * 3


def test_a_dry_run_shows_the_array_and_writes_nothing(login: Login, bases: list[str]) -> None:
    place = login.slurm.shared / "lists"
    told = login.type("prebuild", "sif", str(place / "nowhere.txt"), "--slurm", "2")
    assert told.code == 11 and "nowhere.txt" in told.err, told.err
    place.mkdir(exist_ok=True)
    before = {each.name for each in login.runs.iterdir()} if login.runs.is_dir() else set()
    told = login.type(
        "prebuild", "sif", str(listed(place, bases)), "--slurm", "2", "--most", "1", "--dry-run"
    )
    assert told.code == 0 and "#SBATCH --array=1-2%1" in told.out, told.err
    assert before == ({each.name for each in login.runs.iterdir()} if login.runs.is_dir() else set())
