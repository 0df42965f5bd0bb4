"""The making of SIFs: which layers stay, what one failure means, what several at once share."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from containers import sif
from image_cache.prebuild.lists import Entry
from image_cache.store import Store
from kit import process
from kit.errors import NetworkError, NoSpaceError, NotFoundError, QuotaError, SlipworksError
from kit.nouns import Image, digest
from runner import node_programs, sif_layers, sif_making
from runner.sif_layers import Layers
from runner.sif_making import Done, Sifs
from runner.sif_sources import Source, Sources
from tests.unit.parts_sif import HERE, Answering, blob, manifest, sources


def test_layers_stay_for_the_next_image_as_far_as_they_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sif_layers, "SMALL", 900)
    shared, own, other = b"s" * 1000, b"o" * 1000, b"p" * 1000
    layers = Layers(Store(tmp_path / "way"), budget=2500)

    def pull(*held: bytes) -> Any:
        raw = manifest(*held)
        source = Source(reference="r/a:1", key=digest(raw).removeprefix("sha256:"), manifest=raw)
        return layers.pulled(source, HERE, Answering("", *held), lambda line: None)  # type: ignore[arg-type]

    def there(raw: bytes) -> bool:
        return layers.at.has(blob(raw))

    with pull(shared, own) as first:
        assert first.path == tmp_path / "way" and there(own)
    assert there(shared) and there(own)
    with pull(shared, other):
        pass
    assert there(shared) and there(other) and not there(own), "the longest unused goes first"
    layers.budget = 0
    with pull(shared, other), pull(shared, own):
        assert there(shared) and there(other) and there(own), "what is needed stays, whatever the budget"
    assert not there(shared)
    assert layers.at.list() == ()


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sifs:
    """Which converts by writing three bytes."""
    monkeypatch.setattr("containers.engines.apptainer.Apptainer.check", lambda self: "1.4")

    def convert(self: object, image: Image, out: Path, update: object, at_once: int) -> None:
        out.write_bytes(b"sif")

    monkeypatch.setattr("containers.engines.apptainer.Apptainer.convert", convert)
    monkeypatch.setattr("image_cache.prebuild.planning.SOONEST", 0.0)
    store = Store(tmp_path / "images")
    return Sifs(
        store, sources(tmp_path, Answering()), Layers(Store(tmp_path / "way"), 0), at_once=2, pin=True
    )


def test_each_is_made_once_and_pinned(made: Sifs) -> None:
    entries = [Entry("r/a:1", ("one",)), Entry("r/b:1")]
    told: list[Done] = []
    found = sif_making.make_all(made, entries, told.append)
    assert sorted(each.state for each in found) == ["made", "there"], "both stand for one manifest"
    assert len(told) == 2 and found[0].sif and Path(found[0].sif).read_bytes() == b"sif"
    (image,) = made.store.list()
    assert image.format == "sif" and made.store.pins.has(image.key, "sif")
    assert [each.state for each in sif_making.make_all(made, entries, told.append)] == ["there"] * 2


@pytest.mark.parametrize(
    ("failure", "kind", "asked"),
    [
        (NotFoundError("none"), "base missing", 1),
        (NetworkError("away"), "transient", 6),
        (QuotaError("429"), "quota", 1),
    ],
)
def test_what_fails_has_a_kind_and_what_may_pass_is_tried_again(
    made: Sifs, failure: SlipworksError, kind: str, asked: int
) -> None:
    registry = Answering(fails=failure)
    made.sources = Sources(made.store.root / "x", HERE, registry=lambda host: registry)  # type: ignore[arg-type,return-value]
    done = made.make(Entry("r/a:1"))
    assert (done.state, done.error_class, registry.asked) == ("failed", kind, asked)
    after = made.make(Entry("r/b:1"))
    elsewhere = made.make(Entry("q/b:1"))
    if kind == "quota":  # of that registry nobody is asked for more
        assert (after.state, after.error_class, elsewhere.state) == ("left", "quota", "failed")
    else:
        assert after.state == "failed"


def test_a_registry_that_fails_again_and_again_is_left(made: Sifs) -> None:
    dead, well = Answering(fails=NetworkError("away")), Answering()
    made.sources = Sources(
        made.store.root / "x", HERE, registry=lambda host: dead if host == "dead.org" else well  # type: ignore[arg-type,return-value]
    )  # fmt: skip
    well.layers = (b"other",)
    told = [made.make(Entry(f"dead.org/a:{n}")) for n in range(sif_making.OUTAGE - 1)]
    assert {each.state for each in told} == {"failed"}
    dead.fails = None  # one that comes through: it is counted anew
    assert made.make(Entry("dead.org/a:well")).state == "made"
    dead.fails = NetworkError("away")
    told = [made.make(Entry(f"dead.org/b:{n}")) for n in range(sif_making.OUTAGE)]
    assert {each.state for each in told} == {"failed"}
    dead.asked = 0
    left = made.make(Entry("dead.org/c:1"))
    assert (left.state, left.error_class, dead.asked) == ("left", "transient", 0)
    assert f"{sif_making.OUTAGE} images of dead.org failed in a row, the last: away" in (left.error or "")
    assert made.make(Entry("r.org/a:1")).state == "made"


def test_a_full_disk_stops_all_that_follow(made: Sifs, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **more: object) -> None:
        raise NoSpaceError("the disk is full")

    monkeypatch.setattr("containers.engines.apptainer.Apptainer.convert", full)
    assert made.make(Entry("r/a:1")).error_class == "space"
    assert made.make(Entry("q/b:1")).state == "left"


def test_what_nobody_foresaw_harms_one_image(made: Sifs, monkeypatch: pytest.MonkeyPatch) -> None:
    def odd(*args: object, **more: object) -> None:
        raise OSError("stale file handle")

    monkeypatch.setattr("containers.engines.apptainer.Apptainer.convert", odd)
    done = made.make(Entry("r/a:1"))
    assert (done.state, done.error_class) == ("failed", "ours") and "stale file handle" in (done.error or "")


def test_an_interrupted_one_does_not_go_on_pulling(made: Sifs) -> None:
    made.end()
    assert "interrupted" in (made.make(Entry("r/a:1")).error or "")
    assert made.store.list() == ()


def test_several_at_once_share_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kit.share.cpus", lambda: 8)
    monkeypatch.setattr("kit.share.memory", lambda: 16 << 30)
    if not shutil.which("mksquashfs"):
        monkeypatch.setattr(process, "run", lambda *args, **more: process.Result(1, "zstd", ""))
    assert sif.squash().startswith("-processors 8 -mem 4096M")
    assert sif.squash(4).startswith("-processors 2 -mem 1024M")
    assert sif_making.jobs_here() == 8
    monkeypatch.setattr("kit.share.memory", lambda: 3 << 30)
    assert sif_making.jobs_here() == 3


def test_streams_of_other_threads_end_with_an_interruption() -> None:
    failed: list[BaseException] = []

    def run() -> None:
        try:
            process.stream(["sleep", "60"], what="sleep", on_line=lambda line: None)
        except SlipworksError as failure:
            failed.append(failure)

    thread = threading.Thread(target=run)
    thread.start()
    while not process._streaming:
        thread.join(0.01)
    process.end_streams()
    thread.join(10)
    assert not thread.is_alive() and failed


@contextmanager
def rooted(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "root").mkdir()
    with node_programs.on_path(tmp_path / "root"):
        yield tmp_path / "root"


def test_the_nodes_programs_come_behind_all_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/empty")
    with node_programs.on_path(tmp_path / "nowhere"):
        assert shutil.which("apptainer") is None
    with rooted(tmp_path) as root:
        found = shutil.which("apptainer")
        assert found and f"chroot {root} /bin/sh" in Path(found).read_text()
        assert shutil.which("mksquashfs")
    assert shutil.which("apptainer") is None
    checked = subprocess.run(["/bin/sh", "-n"], input=node_programs.script("x", root), text=True, check=False)
    assert checked.returncode == 0
