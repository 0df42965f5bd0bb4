"""SIFs of a list: what is known, what it takes of the disk, which layers stay, what one failure means."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections import namedtuple
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec import json, structs

from containers import sif
from image_cache import oci
from image_cache.oci import Descriptor
from image_cache.prebuild.lists import Entry
from image_cache.store import Store
from kit import process
from kit.errors import NetworkError, NoSpaceError, NotFoundError, PrebuildError, QuotaError, SlipworksError
from kit.nouns import Image, Platform, digest
from runner import (
    cli,
    node_programs,
    prebuilding_array,
    prebuilding_sifs,
    sif_layers,
    sif_making,
    sif_report,
    sif_space,
)
from runner.sif_layers import Layers
from runner.sif_making import Done, Sifs
from runner.sif_sources import Source, Sources

HERE = Platform.host()


def blob(raw: bytes, media_type: str = oci.GZIP) -> Descriptor:
    return Descriptor(media_type, digest(raw), len(raw))


def manifest(*layers: bytes) -> bytes:
    config = oci.encode(oci.plain_config(HERE, digest(b"x"), "x"))
    return oci.encode(oci.Manifest(blob(config, oci.CONFIG), tuple(map(blob, layers))))


class Answering:
    """A registry with one image under every name; fails where told to."""

    def __init__(self, host: str = "", *layers: bytes, fails: SlipworksError | None = None) -> None:
        self.layers, self.fails, self.asked, self.quota = layers or (b"layer",), fails, 0, None

    def image(self, wanted: object, platform: Platform) -> tuple[bytes, None]:
        self.asked += 1
        if self.fails:
            raise self.fails
        return manifest(*self.layers), None

    def blob(self, repository: str, wanted: Descriptor) -> Iterator[bytes]:
        config = oci.encode(oci.plain_config(HERE, digest(b"x"), "x"))
        yield from (each for each in (*self.layers, config) if digest(each) == wanted.digest)


def sources(folder: Path, registry: Any, **more: bool) -> Sources:
    return Sources(folder / "images", HERE, registry=lambda host: registry, **more)


def test_an_image_comes_once_with_all_its_names_and_parts_make_the_whole() -> None:
    given = [Entry("r/a:1", ("x",)), Entry("r/b:1"), Entry("r/a:1", ("y", "x")), Entry("r/c:1")]
    whole = prebuilding_sifs.shard(given, None)
    assert whole == [Entry("r/a:1", ("x", "y")), Entry("r/b:1"), Entry("r/c:1")]
    parts = [prebuilding_sifs.shard(given, (number, 2)) for number in (1, 2)]
    assert parts == [[whole[0], whole[2]], [whole[1]]]


def test_a_manifest_is_asked_for_once_by_whatever_process(tmp_path: Path) -> None:
    registry = Answering()
    first = sources(tmp_path, registry)
    assert first.known("r/a:1") is None
    found = first.of("r/a:1")
    assert sources(tmp_path, registry).of("r/a:1") == found == first.known("r/a:1")
    assert registry.asked == 1 and found.packed == len(b"layer")
    anew = sources(tmp_path, registry, refresh=True)
    assert anew.known("r/a:1") is None
    assert anew.of("r/a:1") == anew.of("r/a:1") and registry.asked == 2
    for file in (tmp_path / "images").iterdir():
        file.write_bytes(b"{half")
    assert sources(tmp_path, registry).known("r/a:1") is None


def disk(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 0, free))


def test_the_disk_is_judged_before_anything_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk(monkeypatch, 50_000)
    found = sif_space.forecast([1000, 3000], 10, 2, tmp_path, tmp_path / "temporary")
    assert (found.packed, found.sifs, found.counted) == (20_000, 24_000, 2)
    assert found.work == 2 * 3000 and found.temporary == 2 * 5 * 3000 and found.shared
    assert found.needed == 24_000 + 6000 + 30_000
    with pytest.raises(NoSpaceError, match=r"10 images need 60 kB, and .* has 50 kB free") as refused:
        sif_space.demand(found, tmp_path)
    assert "--force" in str(refused.value.hint)
    sif_space.demand(structs.replace(found, free=60_000), tmp_path)
    apart = structs.replace(found, shared=False, free_there=29_000)
    with pytest.raises(NoSpaceError, match="apptainer needs 30 kB"):
        sif_space.demand(apart, tmp_path)
    fetched = sif_space.forecast([1000], 10, 2, tmp_path, tmp_path, fetch=True)
    assert fetched.needed == 10_000
    nothing = sif_space.forecast([], 0, 2, tmp_path, tmp_path)
    assert nothing.needed == 0


def test_it_is_refused_by_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLIPWORKS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("containers.engines.apptainer.Apptainer.check", lambda self: "1.4")
    monkeypatch.setattr(
        prebuilding_sifs, "Sources", lambda folder, platform, refresh: sources(folder, Answering())
    )
    disk(monkeypatch, 5)
    (tmp_path / "list").write_text("localhost:1/a:1\nlocalhost:1/b:1\n")
    assert cli.main(["prebuild", "sif", str(tmp_path / "list"), "--dry-run", "--json"]) == 0
    told = json.decode(capsys.readouterr().out)
    assert told["images"] == 2 and told["there"] == 0 and told["forecast"]["packed"] == 10
    assert cli.main(["prebuild", "sif", str(tmp_path / "list")]) == 22
    assert "2 images need" in capsys.readouterr().err
    assert not (tmp_path / "cache/images").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "there is no list of images"),
        (["a-list", "time=10"], "time=10 is for the jobs of --slurm N"),
        (["a-list", "--slurm", "2", "--shard", "1/2"], "found both"),
        (["a-list", "--shard", "3/2"], "'3/2' is no part"),
    ],
)
def test_a_wrong_command_is_told(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = cli.main(["prebuild", "sif", *words])
    except SystemExit as left:
        code = int(left.code or 0)
    assert code == 2 and said in capsys.readouterr().err


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


def test_a_report_names_what_is_lacking_and_maps_what_is_there(tmp_path: Path) -> None:
    good = Done(reference="r/a:1", names=("one",), state="made", sif="/x/a.sif", size=3)
    bad = Done(
        reference="r/b:1", state="failed", error_class="auth", error="no | way\nin", hint="docker login"
    )
    whole = sif_report.report("list", "linux/amd64", None, [good, bad], 1.0)
    path = sif_report.write(whole, tmp_path)
    assert json.decode(path.read_bytes())["counts"] == {"made": 1, "failed": 1}
    assert "| r/b:1 | auth | no \\| way | docker login |" in (tmp_path / "report.md").read_text()
    assert json.decode((tmp_path / "sifs.json").read_bytes()) == {"r/a:1": "/x/a.sif", "one": "/x/a.sif"}
    with pytest.raises(PrebuildError, match="1 of 2 SIFs could not be made; r/b:1: no"):
        sif_report.demand(whole, path)
    part = sif_report.report("list", "linux/amd64", "1/2", [good], 1.0)
    assert sif_report.write(part, tmp_path / "parts").name == "report-1-of-2.json"
    assert not (tmp_path / "parts/sifs.json").exists()
    sif_report.demand(part, path)


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


def test_what_was_baked_goes_by_its_bases_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Row = namedtuple("Row", "base")

    class Journal:
        def ready(self) -> Iterator[tuple[Row, str]]:
            yield Row("docker.io/x/a:1"), f"r/sandboxes/x/a@{digest(b'1')}"

        def names(self, row: Row) -> tuple[str, ...]:
            return ("instance-1",)

    @contextmanager
    def opened(folder: Path) -> Iterator[Journal]:
        yield Journal()

    monkeypatch.setattr("runner.prebuilds.opened", opened)
    (tmp_path / "list").write_text("r/b:1\n")
    wanted = prebuilding_sifs.Wanted(lists=((tmp_path / "list", "list"),), baked=(tmp_path,), platform=HERE)
    baked = Entry(f"r/sandboxes/x/a@{digest(b'1')}", ("docker.io/x/a:1", "instance-1"))
    assert wanted.entries() == [Entry("docker.io/r/b:1", ("r/b:1",)), baked]
    assert structs.replace(wanted, part=(2, 2)).entries() == [baked]


def test_tasks_read_the_list_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIPWORKS_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "rows.jsonl"
    file.write_text('{"docker_image": "x/a:1", "instance_id": "i 1 #"}\n{"docker_image": "x/b:1"}\n')
    wanted = prebuilding_sifs.Wanted(lists=((file, "r2e"),), platform=HERE, pin=True, jobs=3)
    copied = prebuilding_array.listed(wanted)
    file.unlink()
    assert copied.entries() == [
        Entry("docker.io/x/a:1", ("i 1 #", "x/a:1")), Entry("docker.io/x/b:1", ("x/b:1",)),
    ]  # fmt: skip
    (path,) = (tmp_path / "cache/prebuilds").glob("*/lists/*.jsonl")
    assert prebuilding_array.words(copied) == [
        str(path), "--platform", str(HERE), "--pin", "--jobs", "3", "--force",
    ]  # fmt: skip
