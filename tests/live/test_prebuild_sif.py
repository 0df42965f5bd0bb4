"""SIFs of a list of images, from a real registry by a real apptainer."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from containers import sif_parts
from image_cache.store import Store
from tests.live import parts_registry
from tests.live.needs import need
from tests.live.parts_cpu import MAIN
from tests.live.parts_sifs import listed, pushed, report, typed
from tests.live.parts_slurm_daemons import until


@pytest.fixture(autouse=True)
def apptainer() -> None:
    need(shutil.which("apptainer"), "apptainer is not installed")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "it's a cache"


def sifs(place: Path) -> dict[str, int]:
    """Name -> when it was made."""
    return {each.name: each.stat().st_mtime_ns for each in (place / "images/sif").glob("*.sif")}


def leftovers(place: Path) -> list[str]:
    above = place / "scratch"
    return [each.name for each in above.iterdir()] if above.is_dir() else []


def test_each_image_becomes_a_sif_and_no_layer_stays(
    registry_host: str, tiny_root: Path, tmp_path: Path, place: Path
) -> None:
    wanted = pushed(Store(tmp_path / "pushed"), tiny_root, registry_host, ["one", "two", "three"])
    code, out, err = typed(place, listed(tmp_path, [*wanted, wanted[0]]), "--jobs", "2")
    assert code == 0, err
    assert "3 images of" in err and "are free" in err  # the disk was looked at before
    found = {each["reference"]: each for each in report(out)["images"]}
    assert {each["state"] for each in found.values()} == {"made"} and list(found) == wanted
    for each in found.values():
        name = each["reference"].rpartition("/")[2].partition(":")[0]
        argv = ["apptainer", "--quiet", "exec", "--userns", each["sif"], "ls", "/own"]
        assert subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split() == [name]
    squashed = ["unsquashfs", "-s", "-o", str(sif_parts.root(Path(each["sif"])).offset), each["sif"]]
    assert "zstd" in subprocess.run(squashed, capture_output=True, text=True, check=True).stdout
    assert leftovers(place) == [] and not list((place / "images/blobs").rglob("*"))
    before = sifs(place)
    assert (
        json.loads(Path(out.strip()).with_name("sifs.json").read_text())[wanted[0]] == found[wanted[0]]["sif"]
    )
    code, out, err = typed(place, listed(tmp_path, wanted))
    assert code == 0 and report(out)["counts"] == {"there": 3}
    assert sifs(place) == before
    assert "3 images" in typed(place, listed(tmp_path, wanted), "--dry-run")[1]


def test_what_fails_is_named_by_its_kind_and_the_rest_is_made(
    registry_host: str, tiny_root: Path, tmp_path: Path, place: Path
) -> None:
    wanted = pushed(Store(tmp_path / "pushed"), tiny_root, registry_host, ["four"])
    gone = f"{registry_host}/bases/nobody:1"
    code, out, err = typed(place, listed(tmp_path, [gone, *wanted]))
    assert code == 43 and f"{gone}: base missing" in err and "error: 1 of 2 SIFs could not be made" in err
    made = report(out)
    assert made["counts"] == {"made": 1, "failed": 1}
    assert made["images"][0]["error_class"] == "base missing"
    assert gone in Path(out.strip()).with_suffix(".md").read_text()


def test_parts_of_a_list_are_apart_and_make_all_of_it(
    registry_host: str, tiny_root: Path, tmp_path: Path, place: Path
) -> None:
    wanted = pushed(Store(tmp_path / "pushed"), tiny_root, registry_host, ["five", "six", "seven"])
    found: list[str] = []
    for part in ("1/2", "2/2"):
        code, out, err = typed(place, listed(tmp_path, wanted), "--shard", part, "--json")
        assert code == 0, err
        found += [each["reference"] for each in json.loads(out)["images"]]
    assert sorted(found) == sorted(wanted) and len(sifs(place)) == 3


def test_killed_at_any_moment_it_leaves_no_half_and_goes_on(
    registry_host: str, tiny_root: Path, tmp_path: Path, place: Path
) -> None:
    wanted = pushed(
        Store(tmp_path / "big"), tiny_root, registry_host, [f"k{n}" for n in range(4)], 30_000_000
    )
    argv = [sys.executable, "-c", MAIN, "prebuild", "sif", str(listed(tmp_path, wanted)), "--jobs", "1"]
    running = subprocess.Popen(
        argv, env={**os.environ, "SLIPWORKS_CACHE": str(place)}, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    records = Store(place / "images").records

    def kept() -> dict[str, int]:
        """The SIFs that have a record; one without it is made anew."""
        names = {f"{each.name}.sif" for each in records.all() if each.format == "sif"}
        return {name: at for name, at in sifs(place).items() if name in names}

    until(lambda: bool(kept()), "the first SIF", 120)
    until(lambda: bool(leftovers(place)), "another to begin", 120)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    killed = kept()
    assert 1 <= len(killed) < 4 and leftovers(place)
    for name in killed:
        assert sif_parts.root(place / "images/sif" / name).offset
    code, out, err = typed(place, listed(tmp_path, wanted))
    assert code == 0, err
    counts = report(out)["counts"]
    assert counts["there"] >= len(killed) and sum(counts.values()) == 4
    assert {name: at for name, at in sifs(place).items() if name in killed} == killed
    assert leftovers(place) == []


def test_terminated_it_ends_what_it_started(
    registry_host: str, tiny_root: Path, tmp_path: Path, place: Path
) -> None:
    wanted = pushed(Store(tmp_path / "big"), tiny_root, registry_host, ["t0", "t1"], 30_000_000)
    argv = [sys.executable, "-c", MAIN, "prebuild", "sif", str(listed(tmp_path, wanted)), "--jobs", "2"]
    (tmp_path / "temporary").mkdir()
    mine = {**os.environ, "SLIPWORKS_CACHE": str(place), "APPTAINER_TMPDIR": str(tmp_path / "temporary")}
    running = subprocess.Popen(argv, env=mine, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def building() -> list[Path]:
        return list((tmp_path / "temporary").glob(".slipworks-sif-*"))

    until(lambda: bool(building()), "apptainer to begin", 240)
    running.terminate()
    _, err = running.communicate(timeout=60)
    assert running.returncode == 143 and "Traceback" not in err, err
    assert building() == [] and leftovers(place) == []


@pytest.fixture
def short_lived(tmp_path: Path) -> Iterator[tuple[str, Generator[str]]]:
    """A registry that a test can end."""
    folder = tmp_path / "a registry"
    folder.mkdir()
    serving = parts_registry._serving(folder, "")
    assert isinstance(serving, Generator)
    yield next(serving), serving
    serving.close()


def test_fetched_layers_become_sifs_where_no_registry_is_reached(
    short_lived: tuple[str, Generator[str]], tiny_root: Path, tmp_path: Path, place: Path
) -> None:
    host, serving = short_lived
    wanted = pushed(Store(tmp_path / "pushed"), tiny_root, host, ["f0", "f1"])
    code, out, err = typed(place, listed(tmp_path, wanted), "--fetch")
    assert code == 0 and report(out)["counts"] == {"fetched": 2}, err
    assert sifs(place) == {}
    serving.close()
    code, out, err = typed(place, listed(tmp_path, wanted))
    assert code == 0 and report(out)["counts"] == {"made": 2}, err
    assert len(sifs(place)) == 2
