"""The same for sandboxes of Apptainer: a base becomes a SIF, once."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from containers import sif_parts
from kit import process
from kit.errors import (
    InvalidFileError,
    NetworkError,
    NotFoundError,
    SlipworksError,
    UnsupportedError,
)
from runner.sandboxes.nouns import Ready
from runner.sandboxes.settings import Settings
from runner.sandboxes.sif_images import SifImages
from tests.unit.parts_sandbox_images import BAKED, BARE, START, Engine, at_once, engine, wish
from tests.unit.parts_sif import HERE, Answering, sources

__all__ = ["engine"]


@pytest.fixture
def sifs(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[SifImages, Answering]:
    """Which are made by writing a few bytes, of a registry with one image; their config is BARE."""
    monkeypatch.setattr("containers.engines.apptainer.Apptainer.check", lambda self: "1.4")

    def convert(self: object, image: object, out: Path, update: object, at_once: int) -> None:
        out.write_bytes(b"sif")

    monkeypatch.setattr("containers.engines.apptainer.Apptainer.convert", convert)
    monkeypatch.setattr(sif_parts, "config", lambda path: BARE)
    monkeypatch.setattr("runner.prebuilding_sifs.folder", lambda platform: tmp_path / "sifs")
    registry = Answering()
    return SifImages(Settings(), sources=sources(tmp_path / "sifs", registry)), registry


def test_a_base_becomes_a_sif_once_and_has_the_layer_mounted(sifs: tuple[SifImages, Answering]) -> None:
    mine, registry = sifs
    found = at_once(8, lambda: mine.ready(wish("r.example/a/base:1")))
    path = Path(found[0].reference)
    assert path.read_bytes() == b"sif" and path.suffix == ".sif"
    assert found == [
        Ready(reference=str(path), mount=("--bind", "/layer.sqfs:/slipworks-agent:image-src=/"), 
              command=START, user="root")
    ] * 8  # fmt: skip
    assert registry.asked == 1
    found_size = mine.exists("r.example/a/base:1")
    assert found_size is not None and found_size.size == 3
    assert mine.ready(wish("r.example/a/base:1", "Never")) == found[0] and registry.asked == 1


def test_a_sif_that_is_not_there_is_made_for_nobody_who_says_never(sifs: tuple[SifImages, Answering]) -> None:
    mine, registry = sifs
    with pytest.raises(NotFoundError, match="pull policy is Never"):
        mine.ready(wish("r.example/a/base:1", "Never"))
    assert registry.asked == 0


def test_closing_ends_a_sif_that_is_being_made(
    sifs: tuple[SifImages, Answering], monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, _ = sifs
    begun = threading.Event()

    def convert(self: object, image: object, out: Path, update: Callable[[str], None], at_once: int) -> None:
        begun.set()
        process.stream(["sleep", "600"], what="convert", on_line=update)

    monkeypatch.setattr("containers.engines.apptainer.Apptainer.convert", convert)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(mine.ready, wish("r.example/a/base:1"))
        assert begun.wait(20)
        began = time.monotonic()
        mine.close()
        assert asked.exception(20) is not None and time.monotonic() - began < 60
        with pytest.raises(SlipworksError, match="is ending"):
            mine.ready(wish("r.example/a/base:1"))


def test_a_missing_image_makes_no_sif(sifs: tuple[SifImages, Answering]) -> None:
    mine, registry = sifs
    registry.fails = NotFoundError("no such image")
    began = time.monotonic()
    with pytest.raises(NotFoundError, match="no such image"):
        mine.ready(wish("r.example/a/none:1"))
    assert time.monotonic() - began < 5


def test_a_sif_is_named_by_its_path_too(
    sifs: tuple[SifImages, Answering], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, registry = sifs
    path = tmp_path / "own.sif"
    with pytest.raises(NotFoundError, match="there is no such file"):
        mine.ready(wish(str(path)))
    assert mine.exists(str(path)) is None
    path.write_bytes(b"own")
    told = {**BAKED, "User": "worker", "WorkingDir": "/testbed"}
    monkeypatch.setattr(sif_parts, "config", lambda path: told)
    with pytest.raises(InvalidFileError, match="no SIF file"):
        mine.ready(wish(str(path)))
    monkeypatch.setattr(sif_parts, "root", lambda path: sif_parts.Root(0, "s390x"))
    with pytest.raises(UnsupportedError, match="linux/s390x"):
        mine.ready(wish(str(path)))
    monkeypatch.setattr(sif_parts, "root", lambda path: sif_parts.Root(0, HERE.arch))
    assert mine.ready(wish(str(path))) == Ready(
        reference=str(path), command=START, user="worker", workdir="/testbed"
    )
    exists = mine.exists(str(path))
    assert exists and exists.size == 3 and exists.uploaded.endswith("+00:00") and registry.asked == 0


def test_what_was_prebuilt_is_found_by_every_name_that_its_list_had(
    sifs: tuple[SifImages, Answering], tmp_path: Path
) -> None:
    """A baked one by its base's, too; without a registry. A map of what is gone says nothing."""
    mine, registry = sifs
    baked = f"r.example/to/base@sha256:{'a' * 64}"
    path = mine.ready(wish(baked)).reference
    asked = registry.asked
    registry.fails = NetworkError("gone")
    names = {baked: path, "r.example/a/base:1": path, "Task__1": path, "r.example/a/other:1": "/gone.sif"}
    (tmp_path / "sifs/some-list").mkdir()
    (tmp_path / "sifs/some-list/sifs.json").write_text(json.dumps(names))
    (tmp_path / "sifs/broken").mkdir()
    (tmp_path / "sifs/broken/sifs.json").write_text("{")
    for name in ("r.example/a/base:1", "Task__1", baked):
        for pull in ("IfNotPresent", "Never"):
            assert mine.ready(wish(name, pull)).reference == path
        assert mine.exists(name)
    assert registry.asked == asked
    with pytest.raises(NetworkError):
        mine.ready(wish("r.example/a/other:1"))


def test_a_map_that_was_written_anew_is_read_anew(sifs: tuple[SifImages, Answering], tmp_path: Path) -> None:
    mine, _ = sifs
    path = mine.ready(wish("r.example/a/base:1")).reference
    map_ = tmp_path / "sifs/some-list/sifs.json"
    map_.parent.mkdir()
    map_.write_text("{}")
    with pytest.raises(NotFoundError):
        mine.ready(wish("r.example/a/alias:1", "Never"))
    map_.write_text(json.dumps({"r.example/a/base:1": path, "r.example/a/alias:1": path}))
    assert mine.ready(wish("r.example/a/alias:1", "Never")).reference == path
