"""Package lists are fetched once while things are made together, and not kept beyond that."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from containers import apt
from containers.apt import Apt, Sources
from containers.apt_home import Home
from containers.apt_lists import one_state
from kit.nouns import Platform

PLACE = Sources(
    distribution="debian", suite="trixie", platform=Platform("amd64"), lines=("deb http://m trixie main",)
)
OTHER = Sources(distribution="debian", suite="trixie", platform=Platform("arm64"), lines=PLACE.lines)


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[Platform]:
    """The platforms whose lists were fetched, in order."""
    found: list[Platform] = []

    def refresh(self: Apt, _update: object) -> None:
        found.append(self.sources.platform)
        (self.folder / "lists/m_Packages").write_text(f"of {self.sources.platform}")

    monkeypatch.setattr(Apt, "refresh", refresh)
    return found


def read(place: Sources) -> str:
    with apt.opened(place, lambda line: None) as opened:
        assert (opened.folder / "lists/partial").is_dir()
        return (opened.folder / "lists/m_Packages").read_text()


def test_each_places_lists_are_fetched_once(fetched: list[Platform]) -> None:
    with one_state():
        for place in (PLACE, OTHER, PLACE, OTHER):
            assert read(place) == f"of {place.platform}"
    assert fetched == [PLACE.platform, OTHER.platform]


def test_nothing_is_kept_beyond(fetched: list[Platform]) -> None:
    read(PLACE)
    with one_state():
        read(PLACE)
    with one_state():
        read(PLACE)
    read(PLACE)
    assert len(fetched) == 4


def test_a_failed_fetch_is_tried_again(fetched: list[Platform], monkeypatch: pytest.MonkeyPatch) -> None:
    with one_state():
        with monkeypatch.context() as patch, pytest.raises(OSError, match="unreachable"):
            patch.setattr(Apt, "refresh", lambda *_: (_ for _ in ()).throw(OSError("unreachable")))
            read(PLACE)
        assert read(PLACE) == "of linux/amd64"
    assert len(fetched) == 1


def test_an_unpacked_root_has_lists_of_its_own(fetched: list[Platform], tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    lent = Sources(
        distribution="debian", suite="trixie", platform=PLACE.platform, lines=PLACE.lines, home=Home(tmp_path)
    )
    with one_state():
        for place in (PLACE, lent):
            read(place)
    assert len(fetched) == 2


def test_of_two_at_once_one_fetches_and_the_other_waits(
    fetched: list[Platform], monkeypatch: pytest.MonkeyPatch
) -> None:
    quick, begun = Apt.refresh, threading.Event()

    def slow(self: Apt, update: Callable[[str], None]) -> None:
        begun.set()
        time.sleep(0.2)  # the other would come in between, if it could
        quick(self, update)

    monkeypatch.setattr(Apt, "refresh", slow)
    with one_state(), ThreadPoolExecutor(1) as pool:
        first = pool.submit(read, PLACE)
        assert begun.wait(30)
        assert read(PLACE) == first.result() == "of linux/amd64"
    assert fetched == [PLACE.platform]
