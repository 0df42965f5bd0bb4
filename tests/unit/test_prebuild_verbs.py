"""runner prebuild plan, run, status and export, as a user types them; and which prebuild is meant."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from image_cache.places import Origin
from image_cache.prebuild import planning
from image_cache.prebuild.journal import Header, Journal
from kit import progress
from kit.errors import InvalidFileError, NetworkError, UsageError
from kit.nouns import Platform
from runner import bake_targets, cli, prebuilding, prebuilds
from tests.unit.parts_prebuild import AMD64, TO, Hub, Shelf, added, journal

ARGS = ("--to", TO, "--platform", "amd64")


class Places(prebuilding.Places):
    hub = Hub()
    shelf = Shelf()

    def source(self, origin: Origin) -> Any:
        return self.hub

    def target(self, to: str) -> Any:
        return self.shelf


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Places]]:
    monkeypatch.setenv("SLIPWORKS_CACHE", str(tmp_path / "ca che"))
    Places.hub, Places.shelf = Hub(), Shelf()
    monkeypatch.setattr(prebuilding, "Places", Places)
    monkeypatch.setattr(prebuilding, "found_layer", lambda platform: "layer")
    monkeypatch.setattr(prebuilding, "made_layer", lambda platform: "layer")
    monkeypatch.setattr(prebuilding, "added", lambda layer, made: added())
    yield Places


@pytest.fixture
def typed(capsys: pytest.CaptureFixture[str]) -> Any:
    def typed(*words: str | Path, code: int = 0) -> tuple[str, str]:
        assert cli.main(["prebuild", *map(str, words)]) == code, capsys.readouterr()
        return capsys.readouterr()

    return typed


def listed(folder: Path, names: list[str]) -> Path:
    path = folder / "a list"
    path.write_text("\n".join(names))
    return path


def test_plan_run_status_export(places: type[Places], typed: Any, tmp_path: Path) -> None:
    path = listed(tmp_path, [*places.hub.has(3), "hub:1/a/gone:1"])
    out, err = typed("plan", path, *ARGS)
    assert "to-bake  3" in out and "missing  1" in out and "requests" in out
    assert "4 entries, 4 images that were not known" in err
    assert "would bake 3 images into reg:5000/baked" in typed("run", "--dry-run")[0]
    assert not places.shelf.puts
    out, err = typed("run", code=43)
    assert "ready    3" in out and "error: 1 of 4 images could not be made: 1 base missing" in err
    assert "hint: runner prebuild status --failed" in err
    assert len(places.shelf.puts) == 3
    told = json.loads(typed("status", "--json", "--failed")[0])
    assert told["images"]["ready"] == 3 and told["at_work"] is None
    assert [each["base"] for each in told["failures"]] == ["hub:1/a/gone:1"]
    assert "hub:1/a/gone:1" in typed("status", "--failed")[0]
    out, err = typed("export")
    assert len(json.loads(out)) == 3 and "1 images are not there" in err
    typed("export", "--output", tmp_path / "map.csv")
    assert (tmp_path / "map.csv").read_text().startswith("name,base,base_digest,baked\n")
    path.write_text("\n".join(places.hub.has(3)))
    typed("plan", path, "--replace", *ARGS)
    assert "ready  3" in typed("run")[0]


def test_a_run_as_json(places: type[Places], typed: Any, tmp_path: Path) -> None:
    planned = json.loads(typed("plan", listed(tmp_path, places.hub.has(2)), *ARGS, "--json")[0])
    assert planned["to_come"]["images"] == 2 and planned["to_come"]["layer"] is True
    told = json.loads(typed("run", "--json", "--limit", "1")[0])
    assert told["run"]["done"] == 1 and told["images"]["to-bake"] == 1
    assert json.loads(typed("run", "--dry-run", "--json")[0])["to_come"]["images"] == 1


def test_a_dry_plan_asks_nobody_and_writes_nothing(places: type[Places], typed: Any, tmp_path: Path) -> None:
    path = listed(tmp_path, places.hub.has(2))
    out, err = typed("plan", path, *ARGS, "--dry-run")
    assert "new    2" in out and "would ask for 2 images" in err
    assert not places.hub.asked and not list((tmp_path / "ca che").rglob("*sqlite*"))
    typed("plan", path, *ARGS)
    places.hub.asked.clear()
    path.write_text("\n".join(places.hub.has(3)))
    out, err = typed("plan", path, *ARGS, "--dry-run")
    assert "would ask for 1 images" in err and not places.hub.asked
    assert json.loads(typed("status", "--json")[0])["images"]["total"] == 2


@pytest.mark.parametrize("known", [False, True])
def test_the_time_at_docker_hubs_quota_is_told_before_anybody_is_asked(
    typed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    for name in ("REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SLIPWORKS_CACHE", str(tmp_path / "cache"))
    if known:
        (tmp_path / ".docker").mkdir()
        auth = {"auths": {"https://index.docker.io/v1/": {"auth": "dXNlcjpub25l"}}}
        (tmp_path / ".docker/config.json").write_text(json.dumps(auth))
    rows = [{"docker_image": f"namanjain12/sympy_final:{number:040x}"} for number in range(4578)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "r2e.parquet")
    words = ("plan", "--r2e", tmp_path / "r2e.parquet", *ARGS, "--dry-run")
    out, err = typed(*words)
    rate, time = ("200", "137 h (5.7 days)") if known else ("100", "275 h (11.4 days)")
    assert f"4,578 manifests at {rate} manifests in 6 h" in out and time in out
    assert "4578 entries, 4578 images that were not known" in err and "the agent's layer is not made" in err
    (fetch,) = json.loads(typed(*words, "--json")[0])["to_come"]["fetches"]
    assert fetch["quota"]["assumed"] is True and fetch["place"] == "docker.io"


def test_a_mirror_first(places: type[Places], typed: Any, tmp_path: Path) -> None:
    typed("plan", listed(tmp_path, places.hub.has(2)), *ARGS)
    assert "to-bake  2" in typed("run", "--mirror")[0]
    assert all(tag.startswith("base-") for _, tag in places.shelf.puts)
    typed("run")
    assert len(places.shelf.puts) == 4


def test_choices_stay_until_others_are_made(places: type[Places], typed: Any, tmp_path: Path) -> None:
    path = listed(tmp_path, places.hub.has(1))
    for words, expected in (
        (["--client-path", "no"], (False, "gzip")), ([], (False, "gzip")),
        (["--compression", "zstd", "--client-path", "yes"], (True, "zstd")), ([], (True, "zstd")),
    ):  # fmt: skip
        typed("plan", path, *ARGS, *words)
        with prebuilds.opened(prebuilds.the_one(None, None, None)) as made:
            found = prebuilding.choices(made, None, None)
        assert (found.client_path, found.compression) == expected


def test_a_bad_list_leaves_no_prebuild(places: type[Places], typed: Any, tmp_path: Path) -> None:
    path = listed(tmp_path, ["good:1", "Bad:1"])
    assert "line 2" in typed("plan", path, *ARGS, code=11)[1]
    assert "there is no prebuild yet" in typed("run", code=2)[1]


def test_the_only_prebuild_is_meant_else_they_are_named(
    places: type[Places], typed: Any, tmp_path: Path
) -> None:
    path = listed(tmp_path, places.hub.has(1))
    typed("plan", path, *ARGS)
    typed("status")
    typed("plan", path, "--to", "reg:5000/other", "--platform", "amd64")
    err = typed("status", code=2)[1]
    assert "reg:5000/baked for linux/amd64, reg:5000/other for linux/amd64" in err
    assert "hint: --to reg:5000/baked --platform linux/amd64" in err
    typed("status", *ARGS)
    typed("status", "--to", TO)  # whatever this machine is, there is but one
    typed("plan", path, "--to", TO, "--platform", "arm64")
    assert "for several platforms" in typed("status", "--to", TO, code=2)[1]
    assert "there is no prebuild in" in typed("run", "--to", "reg:5000/third", code=11)[1]


def test_the_platform_is_told_where_it_is_not_given(places: type[Places], typed: Any, tmp_path: Path) -> None:
    err = typed("plan", listed(tmp_path, places.hub.has(1)), "--to", TO, "--dry-run")[1]
    assert f"for {Platform.host()}, which is this machine's platform" in err


def test_a_plan_that_learned_nothing_has_failed(
    places: type[Places], typed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "SOONEST", 0.001)
    (name,) = places.hub.has(1)
    places.hub.failing[name] = [NetworkError("no route")] * 3
    path = listed(tmp_path, [name])
    assert "nothing is known of 1 images: no route" in typed("plan", path, *ARGS, code=30)[1]
    typed("plan")


def test_replace_needs_a_list(places: type[Places], typed: Any) -> None:
    assert "--replace needs a list" in typed("plan", "--replace", "--to", TO, code=2)[1]
    assert "no list was given" in typed("plan", "--to", TO, code=2)[1]


# -- targets -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("localhost:5000/a/b", "localhost:5000/a/b"), ("ghcr.io/team/", "ghcr.io/team"),
        ("docker.io/me", "docker.io/me"), ("localhost:5000", "localhost:5000"),
        ("reg.example.org/", "reg.example.org"), ("oci:/x/y", "oci:/x/y"),
    ],
)  # fmt: skip
def test_targets(given: str, kept: str) -> None:
    assert bake_targets.target(given) == kept


@pytest.mark.parametrize(
    "given", ["localhost:5000/a:tag", f"ghcr.io/a@sha256:{'0' * 64}", "ghcr.io/a:latest"]
)
def test_a_target_has_no_tag(given: str) -> None:
    with pytest.raises(UsageError, match="--to takes a registry and a namespace"):
        bake_targets.target(given)


@pytest.mark.parametrize(
    ("to", "base", "expected"),
    [
        ("localhost:5000/team", "namanjain12/aiohttp_final:abc", "team/namanjain12/aiohttp_final"),
        ("localhost:5000", "python:3.12", "library/python"),
        ("docker.io/me", "namanjain12/aiohttp_final:abc", "me/namanjain12-aiohttp_final"),
        ("oci:/x/y", "namanjain12/aiohttp_final:abc", "namanjain12/aiohttp_final"),
    ],
)
def test_where_an_image_goes(to: str, base: str, expected: str) -> None:
    assert bake_targets.repository(to, Origin.parse(base)) == expected


def test_two_targets_with_one_folder_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIPWORKS_CACHE", str(tmp_path))
    folder = prebuilds.folder("reg:5000/a-b", AMD64)
    assert folder == prebuilds.folder("reg:5000/a/b", AMD64)
    journal(folder, to="reg:5000/a-b").close()
    with pytest.raises(InvalidFileError, match="is of reg:5000/a-b"):
        Journal(folder, Header("reg:5000/a/b", AMD64))


# -- progress ------------------------------------------------------------------------------------------------


def test_the_pace_is_that_of_the_last_minute() -> None:
    now = [0.0]
    pace = progress.Pace(1000, lambda: now[0])
    for second in range(1, 101):
        now[0] = float(second)
        pace.mark(second * 2 if second <= 30 else 60 + (second - 30) * 4)
    assert pace.done == 340 and 3.9 < pace.rate < 4.1 and 3.3 < pace.whole_rate < 3.5
    assert pace.left == "2:45 to go" and pace.line() == "340 of 1000 (34.0 %), 4.0 a second, 2:45 to go"
    pace.mark(1000)
    assert pace.left == ""


@pytest.mark.parametrize(
    ("seconds", "told"), [(0.2, "0:01"), (59.1, "1:00"), (725, "12:05"), (94200, "26:10:00")]
)
def test_clock(seconds: float, told: str) -> None:
    assert progress.clock(seconds) == told


def test_without_a_terminal_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt), progress.bar("baking", 100, every=0.0001) as told:
        for number in range(3):
            told(number, f"{number} failed")
        raise KeyboardInterrupt
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("baking: 2 of 100") and lines[-1].endswith("2 failed")
    with progress.bar("baking", 100, every=0) as told:
        told(1, "")
    assert capsys.readouterr().err == ""


def test_on_a_terminal_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with progress.bar("baking", 10) as told:
        told(3, "[1 failed]")
    shown = terminal.getvalue()
    assert "baking" in shown and "3/10" in shown and "[1 failed]" in shown and "/s" in shown
