"""What a target answers says nothing about a base; what was made stays made; what an archive is not yet."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest

from image_cache import bake as bakes
from image_cache.places import Origin, Remembered, blame
from image_cache.prebuild import crew as crews
from image_cache.prebuild import lists, planning, report
from image_cache.prebuild.crew import Crew
from image_cache.prebuild.journal import Journal
from image_cache.prebuild.running import Maker
from image_cache.unfit import SchemaOneError
from kit.errors import AuthError, InvalidFileError, NetworkError, NotFoundError, QuotaError, SlipworksError
from runner import prebuilding
from tests.unit.parts_prebuild import Hub, Shelf, added, base, by_base, journal
from tests.unit.test_prebuild_plan import bake, look


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "SOONEST", 0.001)
    monkeypatch.setattr(planning, "QUOTA_PAUSE", 0.01)
    monkeypatch.setattr(crews, "TICK", 0.05)


def refusing(failure: Callable[[], SlipworksError]) -> Callable[..., str]:
    def refuse(*_: object) -> str:
        raise failure()

    return refuse


REFUSED = [
    (NotFoundError, "target"), (SchemaOneError, "target"), (InvalidFileError, "target"),
    (AuthError, "auth"), (NetworkError, "transient"),
]  # fmt: skip


@pytest.mark.parametrize("asked", ["find", "labels"])
@pytest.mark.parametrize(("kind", "told"), REFUSED)
def test_a_target_that_refuses_a_plan_leaves_the_base_unknown(
    tmp_path: Path, kind: type[SlipworksError], told: str, asked: str
) -> None:
    hub, shelf = Hub(), Shelf()
    made = journal(tmp_path, *hub.has(1))
    if asked == "labels":
        shelf.find = lambda *_: "sha256:" + "7" * 64  # type: ignore[method-assign]
    setattr(shelf, asked, refusing(lambda: kind("the target says no")))
    look(made, hub, shelf)
    assert made.counts() == {"unknown": 1} and made.error_counts() == {told: 1}
    look(made, hub, Shelf())
    assert made.counts() == {"to-bake": 1}


@pytest.mark.parametrize("asked", ["find", "take", "give", "put"])
@pytest.mark.parametrize(("kind", "told"), REFUSED)
def test_a_target_that_refuses_an_image_makes_it_failed_and_not_missing(
    tmp_path: Path, kind: type[SlipworksError], told: str, asked: str
) -> None:
    hub, shelf = Hub(), Shelf()
    made = journal(tmp_path, *hub.has(2))
    look(made, hub, shelf)
    setattr(shelf, asked, refusing(lambda: kind("the target says no")))
    bake(made, hub, shelf)
    assert made.counts() == {"failed": 2} and made.error_counts() == {told: 2}
    bake(made, hub, Shelf())
    assert made.counts() == {"ready": 2}


def test_a_source_that_fails_while_the_target_reads_it_is_the_bases(tmp_path: Path) -> None:
    hub, shelf = Hub(), Shelf()
    (name,) = hub.has(1)
    hub.blob = refusing(lambda: NotFoundError("no such layer"))  # type: ignore[method-assign,assignment]

    def take(repository: str, blob: object, source: Hub, *_: object) -> int:
        return len(b"".join(source.blob(repository, blob)))  # type: ignore[arg-type]

    shelf.take = take  # type: ignore[method-assign,assignment]
    found = hub.images[name]
    planned = bakes.planned(found.manifest, found.config, name, found.digest, added())
    with pytest.raises(NotFoundError) as told:
        bakes.do(planned, hub, Origin.parse(name), shelf, "r", Remembered())
    assert not blame.of_target(told.value) and planning.error_class(told.value) == "base missing"


def test_a_targets_quota_puts_off_every_image_and_the_bases_is_its_own(tmp_path: Path) -> None:
    """Of two places; the target's quota is met once, with four threads at work."""
    one, two, shelf = Hub("one:1"), Hub("two:1"), Shelf()
    made = journal(tmp_path, *one.has(6), *two.has(6))
    late = QuotaError("429")
    late.seconds = 0.6
    seen: list[float] = []
    lock, at_once, most = threading.Lock(), 0, 0
    real = shelf.find

    def find(repository: str, tag: str) -> str | None:
        nonlocal at_once, most
        with lock:
            seen.append(time.monotonic())
            if len(seen) <= 4:
                raise late
            at_once += 1
            most = max(most, at_once if len(seen) < 7 else 0)
        time.sleep(0.05)
        with lock:
            at_once -= 1
        return real(repository, tag)

    shelf.find = find  # type: ignore[method-assign]
    maker = Maker(made, lambda origin: one if origin.place == "one:1" else two, shelf, added())
    made.afresh("bake")
    crew = Crew(made, "bake", maker.make, jobs=4)
    notes: list[str] = []
    crew.told = lambda done, failed, note: notes.append(note)
    crew.run()
    assert made.counts() == {"ready": 12} and {row.attempts for row in made.rows()} == {1}
    # What a thread had before the first refusal comes; then nothing, of either place; then one by one.
    gap = max(range(1, len(seen)), key=lambda at: seen[at] - seen[at - 1])
    assert seen[gap] - seen[gap - 1] > 0.3 and gap <= 8 and most <= 2


def test_a_refresh_that_fails_keeps_what_was_made(tmp_path: Path) -> None:
    hub, shelf = Hub(), Shelf()
    gone, down, still = hub.has(3)
    made = journal(tmp_path, gone, down, still)
    look(made, hub, shelf)
    bake(made, hub, shelf)
    before = [reference for _, reference in made.ready()]
    del hub.images[gone]
    hub.failing[down] = [NetworkError("reset")] * 9
    look(made, hub, shelf, refresh=True)
    assert [reference for _, reference in made.ready()] == before and made.counts() == {"ready": 3}
    rows = by_base(made)
    assert (rows[gone].error_class, rows[down].error_class) == ("base missing", "transient")
    assert [(row.base, row.state) for row in report.failures(made)] == [(gone, "ready"), (down, "ready")]
    assert report.lost(made) == 0
    hub.images[gone], hub.failing = base(gone), {}
    look(made, hub, shelf, refresh=True)
    assert made.error_counts() == {} and made.counts() == {"ready": 3}


def test_images_of_an_archive_that_is_not_written_yet_are_not_given_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = journal(tmp_path / "j", *Hub().has(1), to=f"oci-archive:{tmp_path}/out.tar")
    (row,) = made.rows()

    class Places:
        requests: ClassVar[dict[str, int]] = {}
        source = None

        def target(self, to: str) -> Shelf:
            return Shelf()

    def stopped(*_: object, **__: object) -> None:
        made.change(row, state="ready", baked="sha256:" + "0" * 64, tag="t")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(prebuilding, "work", stopped)
        with pytest.raises(KeyboardInterrupt):
            prebuilding.make(made, Places(), None, jobs=1, every=9, limit=None, wait=True)  # type: ignore[arg-type]
    with pytest.raises(InvalidFileError, match=r"out\.tar is not written yet"):
        list(Journal(tmp_path / "j").ready())
    prebuilding.make(made, Places(), None, jobs=1, every=9, limit=None, wait=True)  # type: ignore[arg-type]
    assert len(list(Journal(tmp_path / "j").ready())) == 1


@pytest.mark.parametrize("row", ['{"image": "a/b:c", "name": "\\ud800"}', '{"image": "a/\\udfff"}'])
def test_half_a_character_in_a_list_is_told_with_its_row(tmp_path: Path, row: str) -> None:
    path = tmp_path / "list.json"
    path.write_text(f'[{{"image": "a/b:c"}}, {row}]')
    with pytest.raises(InvalidFileError, match=r"row 2: '.*\\ud\w+' is no text: surrogates not allowed"):
        list(lists.read(path, "list"))
