"""Bases of a user's own: the setting `bases` names a file of them."""

from __future__ import annotations

import shutil
from importlib import metadata
from pathlib import Path

import pytest

from containers import bootstrap
from definitions import bases
from image_cache import streams
from image_cache.store import Store
from kit.errors import InvalidFileError, UnknownNameError
from runner import job, planning
from runner.planning import Wanted

DIGEST = "sha256:" + "5" * 64
MINE = f"""
[mine]
kind = "registry"
reference = "registry.example/python:3.13"
digest = "{DIGEST}"
date = "2026-11-21"
sources = ["our registry"]
python = "3.13"
interpreter = "/usr/local/bin/python3.13"
distribution = "debian"
suite = "trixie"
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "my bases.toml"
    file.write_text(MINE + MINE.replace("[mine]", "[python312]"))
    monkeypatch.setenv("SLIPWORKS_BASES", str(file))
    return file


def test_the_users_file_adds_bases_and_replaces_ours(own: Path) -> None:
    assert planning.base_names() == ("bootstrap", "mine", "python312")
    for name in ("mine", "python312"):
        assert planning.base_of(name).digest == DIGEST
    assert planning.base_of("bootstrap").kind == "bootstrap"
    own.unlink()
    with pytest.raises(InvalidFileError, match=r"my bases\.toml"):
        planning.base_of("bootstrap")


def test_ours_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLIPWORKS_BASES", raising=False)
    assert planning.base_names() == bases.names()
    assert planning.base_of("python312") == bases.load("python312")


def test_an_unknown_base_is_told_with_all_that_there_are(own: Path) -> None:
    with pytest.raises(UnknownNameError, match="expected one of bootstrap, mine, python312") as told:
        planning.base_of("mime")
    assert told.value.hint == "did you mean 'mine'?"


def test_a_file_beside_home(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(own.parent))
    monkeypatch.setenv("SLIPWORKS_BASES", "~/my bases.toml")
    assert planning.base_of("mine").reference == "registry.example/python:3.13"


def test_a_job_may_name_one(own: Path, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("name: j\narch: cpu\nbase: mine\nrun: ['true']\n")
    assert job.load(tmp_path / "job.yaml").base == "mine"
    (tmp_path / "job.yaml").write_text("name: j\narch: cpu\nbase: mime\nrun: ['true']\n")
    with pytest.raises(UnknownNameError, match=r"job\.yaml:3.*bootstrap, mine, python312"):
        job.load(tmp_path / "job.yaml")


# -- keys ------------------------------------------------------------------------------------------------


def keys(tmp_path: Path) -> list[str]:
    plan = planning.plan(Wanted(arch="cpu"), Store(tmp_path / "store"))
    recipe = plan.recipe()
    return [recipe.key, planning.base_key(plan.ground, plan.target), planning.system_key(plan, recipe.system),
            planning.stack_key(recipe.stack[0])]  # fmt: skip


def test_another_packing_is_in_every_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = keys(tmp_path)
    assert keys(tmp_path) == before
    monkeypatch.setattr(streams, "packing", lambda: "another")
    assert not set(keys(tmp_path)) & set(before)


def test_who_writes_the_bill_of_materials_is_in_the_images_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = keys(tmp_path)
    version = metadata.version
    monkeypatch.setattr(
        metadata, "version", lambda name: "0" if name == "cyclonedx-python-lib" else version(name)
    )
    after = keys(tmp_path)
    assert after[0] != before[0] and after[1:] == before[1:]


def test_who_byte_compiles_a_base_is_in_its_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = keys(tmp_path)
    copies = tmp_path / "containers"
    shutil.copytree(Path(bootstrap.__file__).parent, copies)
    monkeypatch.setattr(bootstrap, "__file__", str(copies / "bootstrap.py"))
    assert keys(tmp_path) == before
    (copies / "interpreter.py").write_text("# another")
    assert not set(keys(tmp_path)[1:3]) & set(before)
