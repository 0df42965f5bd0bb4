"""Copies of bases: a copy that is done is done, also where it has another digest than its base."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from image_cache import oci
from image_cache.places import Fetched
from image_cache.prebuild.crew import Crew
from image_cache.prebuild.holdings import Holdings
from image_cache.prebuild.running import mirror_tag
from image_cache.prebuild.schema import Row
from kit.nouns import digest
from tests.unit.parts_prebuild import Hub, Shelf, base, by_base, journal
from tests.unit.test_prebuild_plan import bake, look


def of_docker(image: Fetched) -> Fetched:
    table = json.loads(image.manifest)
    table["mediaType"] = oci.DOCKER_MANIFEST
    raw = json.dumps(table).encode()
    return Fetched(raw, image.config, digest(raw))


def test_a_copy_that_becomes_oci_is_made_once(tmp_path: Path) -> None:
    hub, shelf = Hub(), Shelf()
    shelf.oci_only = True
    (name,) = hub.has(1)
    hub.images[name] = of_docker(hub.images[name])
    made = journal(tmp_path, name)
    look(made, hub, shelf, None)
    assert bake(made, hub, shelf, None).done == 1
    (row,) = made.rows()
    assert row.mirrored == row.image == hub.images[name].digest
    assert list(shelf.tags.values()) != [row.image] and made.waiting("mirror") == 0
    assert bake(made, hub, shelf, None).done == 0
    made.change(row, mirrored=None)  # as after a kill before the commit
    assert bake(made, hub, shelf, None).done == 1 and list(shelf.puts.values()) == [1]


def test_a_tag_that_stands_for_something_else_is_no_copy(tmp_path: Path) -> None:
    hub, shelf = Hub(), Shelf()
    (name,) = hub.has(1)
    other = base("another")
    made = journal(tmp_path, name)
    look(made, hub, shelf, None)
    place = ("baked/a/repo", mirror_tag(hub.images[name].digest))
    shelf.tags[place], shelf.manifests[other.digest] = other.digest, other.manifest
    shelf.configs[oci.manifest(other.manifest, "x").config.digest] = other.config
    assert bake(made, hub, shelf, None).failed == 1
    row = by_base(made)[name]
    assert row.mirrored is None and "was not made here" in str(row.error)


def test_what_is_done_and_stays_to_do_ends_the_run_loudly(tmp_path: Path) -> None:
    made = journal(tmp_path, *Hub().has(2))

    def do(row: Row) -> None:
        pass  # and nothing is written down

    with pytest.raises(RuntimeError, match=r"was done \(look\)"):
        Crew(made, "look", do, jobs=1).run()


def test_to_forget_a_blob_never_waits_for_who_writes_blobs_down(tmp_path: Path) -> None:
    made = journal(tmp_path)
    known = Holdings(made.database)
    ended = []

    def forget() -> None:
        for number in range(3000):
            known.forget("r", f"sha256:{number}")
        ended.append("forget")

    def write(name: str) -> None:
        for number in range(1500):
            known.add(name, f"sha256:{number}")
            with made.database.transaction():
                known.flush()
        ended.append(name)

    threads = [threading.Thread(target=forget, daemon=True)]
    threads += [threading.Thread(target=write, args=(each,), daemon=True) for each in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(ended) == ["a", "b", "forget"]
