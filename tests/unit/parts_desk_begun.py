"""A desk that was begun, its engine and its images, as fixtures: processes import parts_desk without them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.sandboxes.desk import Desk
from tests.unit.parts_desk import Engine, Gallery, made


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def gallery() -> Gallery:
    return Gallery()


@pytest.fixture
def desk(tmp_path: Path, engine: Engine, gallery: Gallery) -> Iterator[Desk]:
    """Six slots, and nobody may wait."""
    one = made(tmp_path / "state", engine, gallery)
    one.recover()
    yield one
    engine.hold.set()
    engine.stuck.clear()
    one.close()
