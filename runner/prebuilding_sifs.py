"""From a list of images to their SIFs in this user's store: what is to come, if it fits, and the making."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from msgspec import Struct

from containers import sif
from containers.engines.apptainer import Apptainer
from image_cache.places.origin import Origin
from image_cache.prebuild import lists
from image_cache.prebuild.lists import Entry, Kind
from image_cache.store import Store
from kit import say, settings
from kit.errors import UnsupportedError
from kit.nouns import Platform
from runner import own_store, sif_layers, sif_looking, sif_making, sif_report, sif_space
from runner.sif_making import Sifs
from runner.sif_report import Report
from runner.sif_sources import Sources
from runner.sif_space import Forecast


class Wanted(Struct, frozen=True, kw_only=True):
    """What was asked for: of lists, and of what was baked, as the journals in these folders have it.

    part  (I, N): every N-th image from the I-th on. jobs: at once; None: by this machine. every: seconds
          between two lines of progress. The rest is as the options of `runner prebuild sif` say.
    """

    lists: tuple[tuple[Path, Kind], ...]
    baked: tuple[Path, ...] = ()
    platform: Platform
    part: tuple[int, int] | None = None
    jobs: int | None = None
    fetch: bool = False
    refresh: bool = False
    pin: bool = False
    force: bool = False
    every: float = 10.0

    @property
    def named(self) -> str:
        return ", ".join(map(str, (*(path for path, _ in self.lists), *self.baked)))

    @property
    def folder(self) -> Path:
        """Where the report and the map lie: by what was asked for, its own for each list, dataset or target,
        whatever is changed in the file meanwhile."""
        given = sorted({(str(kind), path.absolute()) for path, kind in self.lists})
        given += sorted({("baked", path.absolute()) for path in self.baked})
        kind, first = given[0]
        readable = first.name if kind == "baked" else f"{kind}-{first.stem}"
        bare = re.sub(r"[^a-zA-Z0-9.]+", "-", readable).strip("-.")[:80]
        exact = "\0".join(f"{kind}:{path}" for kind, path in given)
        return folder(self.platform) / f"{bare}-{hashlib.sha256(os.fsencode(exact)).hexdigest()[:8]}"

    def entries(self) -> list[Entry]:
        """UnsupportedError where one of them, in whatever part, is in no registry."""
        each = (lists.read(path, kind) for path, kind in self.lists)
        return shard(map(_in_a_registry, itertools.chain(*each, *map(_baked, self.baked))), self.part)


def _baked(journal: Path) -> Iterator[Entry]:
    """What a prebuild has baked, each by its digest, under its base's names."""
    from runner import prebuilds  # which needs sqlite3, that the layer in images has not

    with prebuilds.opened(journal) as opened:
        for row, reference in opened.ready():
            yield Entry(reference, (row.base, *opened.names(row)))


def _in_a_registry(entry: Entry) -> Entry:
    if Origin.parse(entry.base).kind != "registry":
        raise UnsupportedError(
            f"{entry.base} is in no registry: a list's SIFs are made of what registries have",
            f"apptainer build NAME.sif {entry.base.partition('@')[0]}; or bake the list into a registry "
            "(runner prebuild plan LIST --to REGISTRY/NAMESPACE), and give that by --to",
        )
    return entry


class Foreseen(Struct, frozen=True, kw_only=True):
    """What is to come. there: how many of the images have their SIF."""

    entries: list[Entry]
    there: int
    forecast: Forecast


def folder(platform: Platform) -> Path:
    """Where what is known of a platform's SIFs lies, and the reports, each list's in a folder of its own."""
    return settings.load().settings.cache_folder / "prebuilds" / f"sifs-{platform.arch}"


def foreseen(wanted: Wanted, sources: Sources | None = None, *, tasks: int = 1) -> Foreseen:
    """Asks registries for the manifests that are not known yet, and looks at the disks. tasks: of an array,
    which are at it at the same time, each with a node's own temporary files.

    What the first image met is raised where nothing is there, and no registry told anything of any."""
    store, sources = own_store.store(), sources or _sources(wanted)
    entries = wanted.entries()
    missing = [each for each in entries if not _there(store, sources, each, wanted.fetch)]
    there, jobs = len(entries) - len(missing), (wanted.jobs or sif_making.jobs_here()) * tasks
    looked = sif_looking.look(sources, store, missing, every=wanted.every)
    if looked.first:
        reference, failure = looked.first
        if looked.in_vain and not there:
            raise failure
        say.say(f"{looked.unknown} images are not known, the first: {reference}: {failure.message}")
    found = sif_space.forecast(
        looked.sizes, len(missing), jobs, store.root, sif.temporary(store.root / "a.sif"),
        fetch=wanted.fetch, elsewhere=tasks > 1, unknown=looked.unknown,
    )  # fmt: skip
    return Foreseen(entries=entries, there=there, forecast=found)


def checked(wanted: Wanted, tasks: int) -> None:
    """NoSpaceError where an array of tasks could not put all of it into the store."""
    found = foreseen(wanted, tasks=tasks)
    say.say(found.forecast.told())
    if not wanted.force:
        sif_space.demand(found.forecast, own_store.store().root)


def make(wanted: Wanted) -> Report:
    """Makes what is missing, and says what became of each image. NoSpaceError before anything is made."""
    began = time.monotonic()
    if not wanted.fetch:
        Apptainer().check()  # before anybody is asked for anything
    store, sources = own_store.store(), _sources(wanted)
    found = foreseen(wanted, sources)
    jobs = wanted.jobs or sif_making.jobs_here()
    say.say(found.forecast.told())
    if not wanted.force:
        sif_space.demand(found.forecast, store.root)
    with sif_layers.on_the_way(store, found.forecast.budget) as layers:
        sifs = Sifs(store, sources, layers, at_once=jobs, fetch=wanted.fetch, pin=wanted.pin)
        count = len(found.entries)
        verb = "fetching the layers of" if wanted.fetch else "making the SIFs of"
        with sif_report.following(f"{verb} {count} images", count, wanted.every) as told:
            done = sif_making.make_all(sifs, found.entries, told)
    part = "/".join(map(str, wanted.part)) if wanted.part else None
    took = time.monotonic() - began
    return sif_report.report(wanted.named, str(wanted.platform), part, done, took, fetch=wanted.fetch)


def shard(entries: Iterable[Entry], part: tuple[int, int] | None) -> list[Entry]:
    """Each image once, with all of its names, in the order of the list; of these, where a part (I, N) is
    asked for, every N-th from the I-th on."""
    found: dict[str, Entry] = {}
    for each in entries:
        before = found.get(each.base)
        names = tuple(dict.fromkeys((*before.names, *each.names))) if before else each.names
        found[each.base] = Entry(each.base, names)
    whole = list(found.values())
    return whole[part[0] - 1 :: part[1]] if part else whole


def _sources(wanted: Wanted) -> Sources:
    return Sources(folder(wanted.platform) / "images", wanted.platform, refresh=wanted.refresh)


def _there(store: Store, sources: Sources, entry: Entry, fetch: bool) -> bool:
    source = sources.known(entry.base)
    return bool(source and store.find(source.key, "oci" if fetch else "sif"))
