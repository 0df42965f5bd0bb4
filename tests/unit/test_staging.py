"""Models and data sets brought to the cache, from a stand-in hub."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from kit.errors import InvalidFileError, NoSpaceError
from runner.job import Job
from runner.staging import asked, bringing, staged
from runner.staging.asked import Dataset, Model, Stage
from runner.staging.cache import Home
from tests.unit.parts_hub import StandIn, hub
from tests.unit.parts_staging import FILES, MODEL, WEIGHTS, bring, folder, holds, job, scratch

__all__ = ["hub", "scratch"]

pytestmark = pytest.mark.timeout(120)


def test_a_model_comes_into_the_layout_of_the_hubs_library(hub: StandIn, scratch: Path) -> None:
    commit = hub.publish("model", MODEL, FILES)
    plan = bring(job(MODEL), scratch)
    assert holds(folder(plan, scratch)) == FILES
    assert plan.env["HF_HOME"] == "/slipworks-scratch/huggingface"
    assert plan.env["SLIPWORKS_STAGED"] == "/slipworks-run/staged"
    (entry,) = plan.staged
    assert (entry.name, entry.id, entry.commit) == ("Tiny", MODEL, commit)
    repository = scratch / "huggingface/hub/models--Qwen--Tiny"
    assert (repository / "refs/main").read_text() == commit
    assert (repository / "snapshots" / commit / "config.json").is_symlink()
    assert len(hub.gets("model.safetensors")) + len(hub.gets("same.bin")) == 1, "one content comes once"
    assert not [each for each in repository.rglob("*") if "part" in each.name or "incomplete" in each.name]


def test_the_hubs_own_library_finds_it_offline(hub: StandIn, scratch: Path) -> None:
    commit = hub.publish("model", MODEL, FILES)
    bring(job(MODEL), scratch)
    said = subprocess.run(
        [sys.executable, "-c", "import huggingface_hub as h; print(h.snapshot_download('Qwen/Tiny'));"
                               "print(h.hf_hub_download('Qwen/Tiny', 'config.json'))"],
        env={"PATH": os.environ["PATH"], "HF_HOME": str(scratch / "huggingface"), "HF_HUB_OFFLINE": "1"},
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert [each.rpartition("/snapshots/")[2] for each in said] == [commit, f"{commit}/config.json"]


def test_what_is_there_is_not_asked_for_again(hub: StandIn, scratch: Path) -> None:
    commit = hub.publish("model", MODEL, FILES)
    bring(job(MODEL), scratch)
    hub.asked.clear()
    bring(job(MODEL), scratch)
    assert [each.path for each in hub.asked] == [f"/api/models/{MODEL}/revision/main"]
    hub.asked.clear()
    plan = bring(job(f"{MODEL}@{commit}"), scratch)
    assert not hub.asked, "a commit never changes"
    assert plan.staged[0].ref is None and plan.staged[0].told == f"model {MODEL}@{commit}"


def test_patterns_take_a_part_and_two_parts_are_two(hub: StandIn, scratch: Path) -> None:
    hub.publish("model", MODEL, FILES)
    small = bring(job(Model(id=MODEL, patterns=("*.json", "*.txt"))), scratch)
    assert set(holds(folder(small, scratch))) == {"config.json", "more/notes.txt"}
    assert not hub.gets("model.safetensors")
    whole = bring(job(MODEL), scratch)
    assert holds(folder(whole, scratch)) == FILES
    assert small.staged[0].record != whole.staged[0].record


def test_nothing_is_downloaded_where_it_would_not_fit(
    hub: StandIn, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.publish("model", MODEL, FILES)

    class Usage:
        free = len(WEIGHTS)

    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage)
    with pytest.raises(NoSpaceError, match="nothing was downloaded"):
        bring(job(MODEL), scratch)
    assert not hub.gets("config.json")
    Usage.free += 100
    bring(job(MODEL), scratch)


def test_a_newer_commit_leaves_the_older_whole_and_names_the_newer(hub: StandIn, scratch: Path) -> None:
    first = bring(job(MODEL), scratch) if hub.publish("model", MODEL, FILES) else None
    assert first
    newer = hub.publish("model", MODEL, {**FILES, "config.json": b'{"a": 2}'})
    hub.asked.clear()
    second = bring(job(MODEL), scratch)
    assert second.staged[0].commit == newer and not hub.gets("model.safetensors"), "the same blobs"
    assert holds(folder(first, scratch))["config.json"] == b'{"a": 1}'
    here = [_here(each, scratch) for each in (*first.staged, *second.staged)]
    assert [staged.missing(each) for each in here] == [None, None]


def _here(entry: staged.Staged, scratch: Path) -> staged.Staged:
    """As if this were inside."""
    from msgspec.structs import replace

    return replace(entry, home=str(scratch / "huggingface"))


def test_a_node_misses_what_was_cleaned_away(hub: StandIn, scratch: Path) -> None:
    hub.publish("model", MODEL, FILES)
    (entry,) = bring(job(MODEL), scratch).staged
    entry = _here(entry, scratch)
    snapshot = scratch / "huggingface" / entry.folder
    assert staged.missing(entry) is None
    (snapshot / "config.json").resolve().unlink()
    assert staged.missing(entry) == str(snapshot / "config.json")
    (entry,) = bring(job(MODEL), scratch).staged
    assert staged.missing(_here(entry, scratch)) is None, "staged again"
    (snapshot / "model.safetensors").resolve().write_bytes(b"short")
    assert staged.missing(_here(entry, scratch)) == str(snapshot / "model.safetensors")
    (entry,) = bring(job(MODEL), scratch).staged
    assert staged.missing(_here(entry, scratch)) is None and holds(snapshot) == FILES


def test_by_its_name_a_newer_commit_with_less_is_found_out(hub: StandIn, scratch: Path) -> None:
    """Another job stages only a part of a newer commit; from then on the name leads there."""
    hub.publish("model", MODEL, FILES)
    (entry,) = bring(job(MODEL), scratch).staged
    newer = hub.publish("model", MODEL, {**FILES, "config.json": b"{}"})
    bring(job(Model(id=MODEL, patterns=("*.json",))), scratch)
    lack = staged.missing(_here(entry, scratch))
    assert lack and lack.endswith(f"snapshots/{newer}/model.safetensors")


def test_two_stagings_at_once_bring_each_file_once(hub: StandIn, scratch: Path) -> None:
    hub.publish("model", MODEL, {f"part-{n}.bin": os.urandom(200_000) for n in range(8)})
    failed: list[BaseException] = []

    def one() -> None:
        try:
            bring(job(MODEL), scratch)
        except BaseException as bad:
            failed.append(bad)

    threads = [threading.Thread(target=one) for _ in range(3)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert not failed
    assert all(len(hub.gets(f"part-{n}.bin")) == 1 for n in range(8))


def test_the_jobs_own_hf_home_is_used_where_a_bind_leads_there(
    hub: StandIn, scratch: Path, tmp_path: Path
) -> None:
    from runner.job import Mount

    hub.publish("model", MODEL, {"config.json": b"{}"})
    shared = tmp_path / "shared"
    wanted = job(MODEL, env={"HF_HOME": "/hf/home"}, binds=(Mount(source=str(shared), target="/hf"),))
    plan = bring(wanted, scratch)
    assert plan.env["HF_HOME"] == plan.staged[0].home == "/hf/home"
    assert (shared / "home" / plan.staged[0].folder / "config.json").exists() and not scratch.exists()
    with pytest.raises(InvalidFileError, match="none of its binds leads to"):
        bring(job(MODEL, env={"HF_HOME": "/elsewhere"}), scratch)
    with pytest.raises(InvalidFileError, match="read-only"):
        read_only = (Mount(source=str(shared), target="/hf", read_only=True),)
        bring(job(MODEL, env={"HF_HOME": "/hf"}, binds=read_only), scratch)


def test_entries_are_links_that_lead_inside(tmp_path: Path) -> None:
    entry = staged.Staged(name="Tiny", told="", id=MODEL, commit="c", home="/hf", folder="hub/x", record="r")
    for _ in range(2):  # a second submission into the same folder is none
        staged.link((entry,), tmp_path / "staged")
    assert (tmp_path / "staged/Tiny").readlink() == Path("/hf/hub/x")


def test_a_job_without_stage_is_left_alone(scratch: Path) -> None:
    plan = bring(Job(name="j", arch="cpu", run="true"), scratch)
    assert not plan.staged and "HF_HOME" not in plan.env and not scratch.exists()


def test_the_short_forms() -> None:
    found = list(
        asked.items(Stage(models=("a/b@v1", "c"), datasets=(Dataset(id="d/e", name="f", tasks=True),)))
    )
    assert [(each.kind, each.id, each.revision, each.name, each.tasks) for each in found] == [
        ("model", "a/b", "v1", "b", False), ("model", "c", "main", "c", False),
        ("dataset", "d/e", "main", "f", True),
    ]  # fmt: skip


def test_nothing_else_loads_the_hubs_library() -> None:
    """It costs a third of a second."""
    code = (
        "import sys, runner.job, runner.queueing, runner.prerequisites, runner.commands.submit\n"
        "import runner.staging.submitting; sys.exit('huggingface_hub' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_bringing_is_what_submission_does(hub: StandIn, scratch: Path) -> None:
    """One record a commit: bringing twice writes it once."""
    hub.publish("model", MODEL, FILES)
    plan = bring(job(MODEL), scratch)
    record = scratch / "huggingface" / plan.staged[0].record
    before = record.stat().st_mtime_ns
    where = Home(scratch / "huggingface", "/x")
    (found,) = bringing.look(list(asked.items(Stage(models=(MODEL,)))), where, None)
    assert found.record and not found.files and record.stat().st_mtime_ns == before
