"""SIFs of a list: what is wanted, what is known, what it takes of the disk, and the report."""

from __future__ import annotations

import shutil
from collections import namedtuple
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec import json, structs

from image_cache.prebuild.lists import Entry
from image_cache.store import Store
from kit.errors import (
    AuthError,
    NetworkError,
    NoSpaceError,
    NotFoundError,
    PrebuildError,
    QuotaError,
    SlipworksError,
    UnsupportedError,
)
from kit.nouns import Platform, digest
from runner import cli, prebuilding_array, prebuilding_sifs, sif_looking, sif_report, sif_space, site
from runner.sif_making import Done
from runner.sif_sources import Sources
from tests.unit.parts_sif import HERE, Answering, sources


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


class Hosts:
    """Registries by name: those called `dead` do not answer."""

    def __init__(self, failure: SlipworksError) -> None:
        self.dead, self.well = Answering(fails=failure), Answering()

    def sources(self, folder: Path, platform: Platform = HERE, *, refresh: bool = False) -> Sources:
        return Sources(folder, platform, refresh=refresh, registry=self.of)

    def of(self, host: str) -> Any:
        return self.dead if host.startswith("dead") else self.well


@pytest.mark.parametrize(
    ("failure", "most"), [(NetworkError("away"), 10), (AuthError("401"), 27), (QuotaError("429"), 8)]
)
def test_a_dead_registry_ends_it_soon(
    failure: SlipworksError, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("SLIPWORKS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("containers.engines.apptainer.Apptainer.check", lambda self: "1.4")
    hosts = Hosts(failure)
    monkeypatch.setattr(prebuilding_sifs, "Sources", hosts.sources)
    (tmp_path / "list").write_text("".join(f"dead.org/a:{n}\n" for n in range(64)))
    for words in (["--dry-run"], ["--dry-run", "--json"], []):
        hosts.dead.asked = 0
        assert cli.main(["prebuild", "sif", str(tmp_path / "list"), *words]) == failure.code
        told = capsys.readouterr()
        assert not told.out and f"error: {failure.message}" in told.err
        assert "asking for the sizes of 64 images: 64 of 64" in told.err
        assert hosts.dead.asked <= most
    (tmp_path / "list").write_text(
        "".join(f"{host}.org/a:{n}\n" for n in range(32) for host in ("dead", "r"))
    )
    assert cli.main(["prebuild", "sif", str(tmp_path / "list"), "--dry-run"]) == 0
    told = capsys.readouterr()
    assert "(by 32 of them, 32 are not known)" in told.out and hosts.well.asked == 32
    assert f"32 images are not known, the first: dead.org/a:0: {failure.message}" in told.err


def test_what_a_registry_lacks_is_told_with_the_rest(tmp_path: Path) -> None:
    hosts = Hosts(NotFoundError("none"))
    wanted = [Entry(f"dead.org/a:{n}") for n in range(30)]
    found = sif_looking.look(hosts.sources(tmp_path), Store(tmp_path / "images"), wanted, every=0)
    assert (found.sizes, found.unknown, found.in_vain, hosts.dead.asked) == ([], 30, False, 30)
    told = sif_space.forecast([], 30, 2, tmp_path, tmp_path, unknown=30).told()
    assert "30 images, and what they take is not known" in told


@pytest.mark.parametrize("words", [[], ["--dry-run"], ["--slurm", "2", "--dry-run"], ["--slurm", "2"]])
@pytest.mark.parametrize("local", ["oci:/x/layout:a", "oci-archive:/x.tar:a", "docker-archive:/x.tar:r/a:1"])
def test_images_in_no_registry_are_refused_at_once(
    words: list[str], local: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("SLIPWORKS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("containers.engines.apptainer.Apptainer.check", lambda self: "1.4")
    monkeypatch.setattr(site, "chosen", lambda *args, **more: None)
    asked = Answering()
    monkeypatch.setattr(prebuilding_sifs, "Sources", lambda folder, platform, refresh: sources(folder, asked))
    (tmp_path / "list").write_text(f"localhost:1/a:1\n{local}\n")
    assert cli.main(["prebuild", "sif", str(tmp_path / "list"), *words]) == UnsupportedError.code
    told = capsys.readouterr()
    assert f"error: {local} is in no registry" in told.err and f"apptainer build NAME.sif {local}" in told.err
    assert not told.out and not asked.asked


def test_each_list_has_a_map_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLIPWORKS_CACHE", str(tmp_path / "cache"))

    def make(wanted: prebuilding_sifs.Wanted) -> sif_report.Report:
        done = [Done(reference=each.base, state="made", sif="/x.sif") for each in wanted.entries()]
        part = "/".join(map(str, wanted.part)) if wanted.part else None
        return sif_report.report(wanted.named, str(HERE), part, done, 1.0, fetch=wanted.fetch)

    monkeypatch.setattr(prebuilding_sifs, "make", make)
    maps = []
    for name, *words in (("one",), ("two",), ("one",), ("one", "--fetch"), ("one", "--shard", "1/1")):
        list_ = tmp_path / name / "a list.txt"
        list_.parent.mkdir(exist_ok=True)
        list_.write_text(f"localhost:1/{name}:1\n")
        assert cli.main(["prebuild", "sif", str(list_), *words]) == 0
        told = capsys.readouterr()
        file = Path(told.out.strip()).with_name("sifs.json")
        assert json.decode(file.read_bytes()) == {f"localhost:1/{name}:1": "/x.sif"}
        assert (str(file) in told.err) == (not words), "what has no map tells none"
        maps.append(file)
    assert len(set(maps)) == 2 and maps[0] == maps[2] == maps[3] == maps[4]
    assert maps[0].parent.name.startswith("list-a-list-")
    as_r2e = prebuilding_sifs.Wanted(lists=((tmp_path / "one/a list.txt", "r2e"),), platform=HERE)
    baked = prebuilding_sifs.Wanted(lists=(), baked=(tmp_path / "reg-sandboxes-amd64",), platform=HERE)
    assert as_r2e.folder != maps[0].parent and baked.folder.name.startswith("reg-sandboxes-amd64-")


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
