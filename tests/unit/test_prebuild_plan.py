"""Looking at bases: how each answer is read, what is asked at most, and what is said to come."""

from __future__ import annotations

from pathlib import Path

import pytest

from image_cache import oci
from image_cache.places import Fetched
from image_cache.prebuild import planning
from image_cache.prebuild.crew import Crew
from image_cache.prebuild.forecasting import forecast
from image_cache.prebuild.journal import Journal
from image_cache.prebuild.looking import Looker
from image_cache.prebuild.planning import Fetch, Quota
from image_cache.prebuild.running import Maker
from image_cache.prebuild.schema import ErrorClass, State
from image_cache.unfit import ForeignLayerError, SchemaOneError, TooManyLayersError, WrongPlatformError
from kit.errors import (
    AuthError,
    HashMismatchError,
    InvalidFileError,
    NetworkError,
    NoSpaceError,
    NotFoundError,
    QuotaError,
)
from tests.unit.parts_prebuild import Hub, Shelf, added, base, by_base, journal


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "SOONEST", 0.001)
    monkeypatch.setattr(planning, "QUOTA_PAUSE", 0.01)


def look(made: Journal, hub: Hub, shelf: Shelf, what: object = ..., refresh: bool = False) -> Crew:
    bake = added() if what is ... else what
    made.look_again(bake.address if bake else None, refresh=refresh)  # type: ignore[attr-defined]
    made.afresh("look")
    looker = Looker(made, lambda origin: hub, shelf, bake)  # type: ignore[arg-type]
    crew = Crew(made, "look", looker.look, jobs=4)
    crew.run()
    return crew


ANSWERS: list[tuple[BaseException, State, State, ErrorClass]] = [
    (NotFoundError("x"), "missing", "missing", "base missing"),
    (WrongPlatformError("x"), "wrong-platform", "wrong-platform", "platform"),
    (SchemaOneError("x"), "schema-1", "schema-1", "platform"),
    (TooManyLayersError("x"), "failed", "failed", "platform"),
    (ForeignLayerError("x"), "failed", "failed", "platform"),
    (AuthError("x"), "unauthorised", "failed", "auth"),
    (QuotaError("x"), "unknown", "failed", "quota"),
    (NetworkError("x"), "unknown", "failed", "transient"),
    (HashMismatchError("x"), "unknown", "failed", "transient"),
    (NoSpaceError("x"), "unknown", "failed", "space"),
    (InvalidFileError("x"), "failed", "failed", "ours"),
    (TypeError("x"), "failed", "failed", "ours"),
]


@pytest.mark.parametrize(
    ("error", "looking", "making", "kind"), ANSWERS, ids=lambda each: type(each).__name__
)
def test_what_an_answer_means(error: BaseException, looking: State, making: State, kind: ErrorClass) -> None:
    assert planning.state_after(error, looking=True) == looking
    assert planning.state_after(error, looking=False) == making
    assert planning.error_class(error) == kind
    # 401, 429, 5xx, a reset and a truncated body say nothing about existence.
    assert (looking == "missing") == isinstance(error, NotFoundError)


def test_pauses_grow_with_jitter_and_end() -> None:
    found = [[planning.pause("transient", tries) for _ in range(50)] for tries in range(1, 7)]
    assert found[5] == [None] * 50
    assert planning.pause("base missing", 1) is None and planning.pause("auth", 1) is not None
    spans = [(min(each), max(each)) for each in found[:5]]  # type: ignore[type-var]
    for number, (low, high) in enumerate(spans):
        top = planning.SOONEST * 2**number
        assert top / 2 <= low < high <= top  # type: ignore[operator]


def test_bases_are_sorted_by_what_they_are(tmp_path: Path) -> None:
    hub, shelf = Hub(), Shelf()
    good = hub.has(1)[0]
    other = {name: f"hub:1/a/{name}:1" for name in ("gone", "arm", "deep", "shut", "flaky", "down", "bug")}
    hub.images |= {other["arm"]: base("arm", arch="arm64"), other["deep"]: base("deep", layers=127)}
    hub.images[other["flaky"]] = base("flaky")
    hub.failing = {
        other["shut"]: [AuthError("401")] * 9, other["down"]: [NetworkError("reset")] * 9,
        other["flaky"]: [NetworkError("503"), HashMismatchError("cut")], other["bug"]: [TypeError("oh")],
    }  # fmt: skip
    made = journal(tmp_path, good, *other.values())
    crew = look(made, hub, shelf)
    rows = by_base(made)
    assert {name: rows[each].state for name, each in other.items()} == {
        "gone": "missing", "arm": "wrong-platform", "deep": "failed", "shut": "unauthorised",
        "flaky": "to-bake", "down": "unknown", "bug": "failed",
    }  # fmt: skip
    assert rows[good].state == "to-bake" and (crew.done, crew.failed) == (8, 6)
    assert rows[other["flaky"]].error is None and rows[other["flaky"]].tries == 0
    assert rows[other["down"]].error == "reset" and hub.asked["look", other["down"]] == 3
    assert "TypeError: oh (parts_prebuild.py:" in str(rows[other["bug"]].error)
    assert made.error_counts() == {"platform": 2, "base missing": 1, "auth": 1, "transient": 1, "ours": 1}


def test_a_second_plan_asks_only_for_what_is_not_known(tmp_path: Path) -> None:
    hub, shelf = Hub(), Shelf()
    good, down, gone = [*hub.has(2), "hub:1/a/gone:1"]
    hub.failing[down] = [NetworkError("x")] * 3
    made = journal(tmp_path, good, down, gone)
    look(made, hub, shelf)
    assert by_base(made)[down].state == "unknown"
    hub.asked.clear()
    look(made, hub, shelf)
    assert {name for _, name in hub.asked} == {down}
    hub.asked.clear()
    shelf.asked = 0
    look(made, hub, shelf)
    assert not hub.asked and not shelf.asked


def test_a_manifest_is_fetched_once_and_asked_for_by_head_when_refreshed(tmp_path: Path) -> None:
    hub, shelf = Hub(), Shelf()
    still, moved = hub.has(2)
    made = journal(tmp_path, still, moved)
    look(made, hub, shelf)
    hub.images[moved] = base("another")
    look(made, hub, shelf, refresh=True)
    assert (hub.asked["image", still], hub.asked["image", moved]) == (1, 2)
    assert (hub.asked["look", still], hub.asked["look", moved]) == (2, 2)
    assert by_base(made)[moved].image == base("another").digest


def test_where_a_quota_is_announced_no_manifest_is_fetched(tmp_path: Path) -> None:
    hub, shelf = Hub(counted=True), Shelf()
    made = journal(tmp_path, *hub.has(3))
    look(made, hub, shelf)
    assert {what for what, _ in hub.asked} == {"look"} and made.counts() == {"to-bake": 3}
    assert made.kept(next(made.rows()).image) is None
    found = forecast(made, [], lambda place: Quota(2, 100))
    assert (found.images, found.unseen) == (3, 3)
    assert found.fetches == (Fetch(place="hub:1", images=3, quota=Quota(2, 100)),)
    assert found.seconds == 150


def bake(made: Journal, hub: Hub, shelf: Shelf, what: object = ...) -> Crew:
    given = added() if what is ... else what
    maker = Maker(made, lambda origin: hub, shelf, given)  # type: ignore[arg-type]
    made.afresh("bake" if given else "mirror")
    crew = Crew(made, "bake" if given else "mirror", maker.make, jobs=4)
    crew.run()
    return crew


@pytest.mark.parametrize("counted", [False, True])
def test_what_another_journal_baked_is_found(tmp_path: Path, counted: bool) -> None:
    hub, shelf = Hub(counted=counted), Shelf()
    names = hub.has(3)
    first = journal(tmp_path / "first", *names)
    look(first, hub, shelf)
    bake(first, hub, shelf)
    second = journal(tmp_path / "second", *names)
    look(second, hub, shelf)
    assert second.counts() == {"ready": 3}
    assert by_base(second)[names[0]].baked == by_base(first)[names[0]].baked
    look(journal(tmp_path / "third", *names), hub, shelf, added("another layer"))
    assert journal(tmp_path / "third").counts() == {"to-bake": 3}


def test_a_tag_that_is_anothers_is_not_taken_for_ours(tmp_path: Path) -> None:
    hub, shelf = Hub(), Shelf()
    (name,) = hub.has(1)
    first = journal(tmp_path / "first", name)
    look(first, hub, shelf)
    bake(first, hub, shelf)
    ((place, _),) = shelf.tags.items()
    foreign = base("foreign")
    shelf.tags[place], shelf.manifests[foreign.digest] = foreign.digest, foreign.manifest
    shelf.configs[oci.manifest(foreign.manifest, "x").config.digest] = foreign.config
    second = journal(tmp_path / "second", name)
    look(second, hub, shelf)
    assert second.counts() == {"to-bake": 1}
    bake(second, hub, shelf)
    row = by_base(second)[name]
    assert row.state == "failed" and "was not made here" in str(row.error) and shelf.puts[place] == 1


def test_without_a_layer_a_plan_only_looks(tmp_path: Path) -> None:
    hub, shelf = Hub(), Shelf()
    made = journal(tmp_path, *hub.has(2))
    look(made, hub, shelf, None)
    assert made.counts() == {"to-bake": 2} and not shelf.asked


@pytest.mark.parametrize("counted", [False, True])
def test_an_index_and_schema_1(tmp_path: Path, counted: bool) -> None:
    hub, shelf = Hub(counted=counted), Shelf()
    several, dead = hub.has(2)
    hub.kinds = {several: oci.INDEX, dead: "application/vnd.docker.distribution.manifest.v1+prettyjws"}
    made = journal(tmp_path, several, dead)
    look(made, hub, shelf)
    rows = by_base(made)
    assert rows[dead].state == "schema-1" and made.error_counts() == {"platform": 1}
    assert rows[several].state == "to-bake" and rows[several].seen != hub.images[several].digest
    assert rows[several].image == (None if counted else hub.images[several].digest)
    bake(made, hub, shelf)
    row = by_base(made)[several]
    assert row.state == "ready" and row.image == hub.images[several].digest
    assert hub.asked["image", several] == 1 and hub.asked["look", several] == 1


# -- what is to come -----------------------------------------------------------------------------------------


def test_layers_are_counted_once_however_many_images_have_them(tmp_path: Path) -> None:
    hub, shelf = Hub(), Shelf()
    made = journal(tmp_path, *hub.has(3), *Hub().has(0))
    look(made, hub, shelf)
    ours = [each.descriptor for each in (added().gzip, added().tiny) if each]
    found = forecast(made, ours, lambda place: None)
    # Two layers of the bases and two of ours, once in the one repository; each moved once.
    assert found.bytes == 100 + 101 + 5000 + 10
    assert found.requests == 3 * planning.PER_IMAGE + 4 + 4 * planning.PER_MOVED
    bake(made, hub, shelf)
    assert forecast(made, ours, lambda place: None).requests == 0


def test_layers_of_the_targets_own_registry_are_mounted(tmp_path: Path) -> None:
    hub = Hub("reg:5000")
    made = journal(tmp_path, *hub.has(2))
    look(made, hub, Shelf())
    found = forecast(made, [], lambda place: None)
    assert found.bytes == 0 and found.requests == 2 * planning.PER_IMAGE + 2


@pytest.mark.parametrize(
    ("quota", "said"),
    [(planning.HUB_ANONYMOUS, "275 h (11.4 days)"), (planning.HUB_KNOWN, "137 h (5.7 days)")],
)
def test_the_truth_about_docker_hub(quota: Quota, said: str) -> None:
    assert planning.span(quota.seconds(4578)) == said


def test_what_is_left_of_a_quota_costs_no_time() -> None:
    assert Quota(100, 3600, remaining=40).seconds(40) == 0
    assert Quota(100, 3600, remaining=40).seconds(50) == 1800
    assert Quota(100, 3600).seconds(100) == 0
    assert [planning.span(each) for each in (0.2, 89, 90, 5399, 5400, 172800)] == [
        "1 s", "89 s", "2 min", "90 min", "2 h", "48 h (2.0 days)",
    ]  # fmt: skip


def test_a_base_that_contradicts_itself_is_told(tmp_path: Path) -> None:
    hub, shelf = Hub(), Shelf()
    (name,) = hub.has(1)
    found = hub.images[name]
    hub.images[name] = Fetched(found.manifest, found.config.replace(b"diff_ids", b"nothing"), found.digest)
    made = journal(tmp_path, name)
    look(made, hub, shelf)
    assert by_base(made)[name].state == "failed" and made.error_counts() == {"ours": 1}
