"""Which offline runs of W&B are a run's, and which of them wait; what follows a run to its end."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from image_cache import claim
from image_cache.claim import Claim, Owner
from image_cache.prebuild import turn
from kit import exact
from kit.errors import EXIT_CODES, LaunchError, NetworkError
from runner import followed, offline_runs, syncing
from runner.fixes import wandb_offline
from runner.fixing import facts_like, launch_like
from runner.meeting import Ended
from runner.offline_runs import Mark
from runner.runs import RunFolder
from runner.syncing import Synced
from runner.watching import Watch
from tests.unit.parts_watch import Reached, Slurm, attempt, reached, record, row, run, runs, typed

__all__ = ["reached", "runs"]


def logged(folder: RunFolder, id: str, place: str = "wandb", size: int = 10, age: float = 0) -> Path:
    made = folder.root / place / f"offline-run-20261121_120000-{id}"
    made.mkdir(parents=True)
    log = made / f"run-{id}.wandb"
    log.write_bytes(b"x" * size)
    os.utime(log, (time.time() - age,) * 2)
    return log


def test_they_are_found_where_nodes_leave_them(runs: Path) -> None:
    folder = run(runs)
    logged(folder, "b-2")
    logged(folder, "a", "artifacts/logs/wandb", size=3)
    logged(folder, "a", size=5)
    (folder.root / "wandb/offline-run-20261121_120000-empty").mkdir()
    (folder.root / "wandb/run-20261121_120000-online").mkdir()
    (folder.root / "wandb/latest-run").symlink_to("offline-run-20261121_120000-a")
    assert [(each.id, each.size, each.file.parent.parent.name) for each in offline_runs.found(folder)] == [
        ("a", 5, "wandb"),
        ("b-2", 10, "wandb"),
    ]


def test_what_an_attempt_may_still_write_waits(runs: Path) -> None:
    folder = run(runs)
    logged(folder, "old", age=60)
    logged(folder, "new")
    record(folder, "10", "11")
    attempt(folder, 1, job="10", ended=Ended(1), code=1)
    attempt(folder, 2, job="11")
    for each, at in ((1, 100), (2, 30)):
        path = folder.attempt(each).events("0")
        path.write_text(f'{{"at":{time.time() - at},"who":"node 0","event":"node started"}}\n')
    watch = Watch(lambda: Slurm(row("10", "FAILED"), row("11", "RUNNING")))
    now = watch.state(folder)
    assert {each.id: offline_runs.growing(each, now) for each in offline_runs.found(folder)} == {
        "new": True, "old": False,
    }  # fmt: skip
    attempt(folder, 2, job="11", ended=Ended(0), code=0)
    now = Watch(lambda: Slurm(row("11", "COMPLETED"))).state(folder)
    assert not any(offline_runs.growing(each, now) for each in offline_runs.found(folder))


def test_each_once_but_what_grew_again(runs: Path) -> None:
    folder = run(runs)
    log = logged(folder, "a")
    (each,) = offline_runs.found(folder)
    assert not offline_runs.is_done(each, None)
    offline_runs.mark(folder, each.name, Mark(size=10, whole=False, at="2026-11-21T12:00:00+00:00"))
    assert offline_runs.is_done(each, offline_runs.marks(folder)[each.name])
    log.write_bytes(b"x" * 11)
    (each,) = offline_runs.found(folder)
    assert not offline_runs.is_done(each, offline_runs.marks(folder)[each.name])
    log.with_name("run-a.wandb.synced").touch()
    assert offline_runs.is_done(each, None), "its user typed wandb sync"
    (folder.root / offline_runs.MARKS).write_text("{half")
    assert offline_runs.marks(folder) == {}


@pytest.fixture
def brought(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was synced, of `sync` that says it could."""
    seen: list[str] = []

    def sync(now: object) -> Sequence[Synced]:
        folder: RunFolder = now.files.folder  # type: ignore[attr-defined]
        seen.extend(each.id for each in offline_runs.found(folder))
        return [Synced(run="j", wandb="offline-run-a", state="synced", url="https://w/a")]

    monkeypatch.setattr(syncing, "sync", sync)
    return seen


@pytest.mark.parametrize("code", [0, 7])
def test_followed_to_its_end(
    runs: Path, brought: list[str], capfd: pytest.CaptureFixture[str], reached: Reached, code: int
) -> None:
    folder = run(runs)
    record(folder, "10")
    logged(folder, "a")
    reached(Slurm(row("10", "COMPLETED" if code == 0 else "FAILED", code=code)))
    attempt(folder, 1, job="10", log="one\n", ended=Ended(code), code=code)
    assert followed.follow(folder) == code
    told = capfd.readouterr()
    assert "one\n" in told.err and not told.out
    assert brought == ["a"] and "W&B has offline-run-a: https://w/a" in told.err


def test_followed_without_a_result_and_without_w_and_b(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], reached: Reached
) -> None:
    folder = run(runs)
    record(folder, "10")
    logged(folder, "a")
    reached(Slurm(row("10", "CANCELLED")))

    def away(now: object) -> list[Synced]:
        raise NetworkError("the server is away")

    monkeypatch.setattr(syncing, "sync", away)
    with pytest.raises(LaunchError, match="is cancelled"):
        followed.follow(folder)
    assert "warning: the server is away: runner sync 0badcafe" in capfd.readouterr().err


def test_sync_says_what_became_of_each(
    runs: Path, brought: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run(runs)
    folder.result.write_text('{"code": 0}')
    assert typed(capsys, "sync")[2].startswith("no offline runs of W&B")
    logged(folder, "a")
    code, out, _ = typed(capsys, "sync", "last")
    assert code == 0 and "offline-run-a  synced" in out and "https://w/a" in out


def owned(folder: Path, beat: int) -> None:
    holder = Owner(host="other", pid=4242, started=1, machine="another machine", beat=beat)
    folder.mkdir(exist_ok=True)
    (folder / "1").write_bytes(exact.encode(holder).ljust(512))


@pytest.mark.parametrize(("lives", "state"), [(False, "synced"), (True, "held")])
def test_who_was_killed_on_another_machine_holds_nothing_for_ever(
    runs: Path, monkeypatch: pytest.MonkeyPatch, lives: bool, state: str
) -> None:
    folder = run(runs)
    folder.result.write_text('{"code": 0}')
    logged(folder, "a")
    owned(folder.root / ".wandb-sync", 7)
    clock = [0.0]

    def sleep(seconds: float) -> None:
        clock[0] += seconds
        if lives and clock[0] > 5:
            owned(folder.root / ".wandb-sync", 8)

    time = SimpleNamespace(monotonic=lambda: clock[0], sleep=sleep)
    monkeypatch.setattr(claim, "time", time)
    monkeypatch.setattr(turn, "time", time)
    monkeypatch.setattr(syncing, "_told", lambda *asked: ("https://w/a", [], 0))
    (done,) = syncing.sync(Watch().state(folder))
    assert done.state == state and (clock[0] < 10 if lives else clock[0] > claim.SILENCE)


def test_a_run_that_another_brings_is_told_as_held_at_once(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run(runs)
    folder.result.write_text('{"code": 0}')
    logged(folder, "a")
    with Claim(folder.root / ".wandb-sync").taken() as other:
        assert other
        (done,) = syncing.sync(Watch().state(folder))
    assert done.state == "held"


def test_what_failed_ends_with_its_kind() -> None:
    def error(why: str) -> int:
        failed = syncing.failure([Synced(run="j-0badcafe", wandb="w", state="failed", why=why)])
        assert failed and "could not sync w of j-0badcafe" in failed.message
        return failed.code

    assert error("POST … giving up after 6 attempt(s): connection refused") == EXIT_CODES["NetworkError"]
    assert error("returned error 401: user is not logged in") == EXIT_CODES["AuthError"]
    assert syncing.failure([Synced(run="j", wandb="w", state="growing")]) is None


def test_no_key_of_a_run_that_begins_reaches_one_that_is_synced() -> None:
    env = syncing._environment(
        {"WANDB_MODE": "offline", "WANDB_RUN_ID": "x", "WANDB_API_KEY": "k", "HOME": "/h"}
    )
    assert env == {**syncing.PATIENT, "HOME": "/h", "WANDB_API_KEY": "k"}


@pytest.mark.parametrize(
    ("env", "internet", "sets"),
    [
        ({}, False, {"WANDB_MODE", "WANDB_DIR"}),
        ({"WANDB_MODE": "offline"}, True, {"WANDB_DIR"}),
        ({"WANDB_MODE": "online"}, False, set()),
        ({"HTTPS_PROXY": "http://p:1"}, False, set()),
        ({}, None, set()),
        ({"WANDB_DIR": "/mine"}, False, {"WANDB_MODE"}),
    ],
)
def test_offline_where_there_is_no_way_out(
    env: dict[str, str], internet: bool | None, sets: set[str]
) -> None:
    launch = launch_like(env=env, internet=internet)
    applies = wandb_offline.applies(facts_like(), launch)
    assert bool(applies) == bool(sets)
    if applies:
        assert set(wandb_offline.apply(facts_like(), launch).env) - set(env) == sets


def test_marks_are_read_as_they_were_written(runs: Path) -> None:
    folder = run(runs)
    one = Mark(size=1, whole=True, at="2026-11-21T12:00:00+00:00", url="https://w")
    offline_runs.mark(folder, "x", one)
    offline_runs.mark(folder, "y", one)
    assert exact.decode((folder.root / offline_runs.MARKS).read_bytes(), dict[str, Mark]) == {
        "x": one,
        "y": one,
    }
