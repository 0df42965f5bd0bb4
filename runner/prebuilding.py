"""A prebuild put together: its journal, the registries, and the agent-server's layer."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from msgspec import Struct, json, structs

from image_cache import credentials
from image_cache.bake import Added
from image_cache.oci import Descriptor
from image_cache.places import Origin, Source, Target, finding
from image_cache.prebuild import lists, planning, report
from image_cache.prebuild.crew import Crew
from image_cache.prebuild.forecasting import forecast
from image_cache.prebuild.journal import Journal, Work
from image_cache.prebuild.lists import Entry, Kind
from image_cache.prebuild.looking import Looker
from image_cache.prebuild.planning import Forecast, Quota
from image_cache.prebuild.report import Session
from image_cache.prebuild.running import Maker
from image_cache.prebuild.schema import Row
from image_cache.references import HUB
from image_cache.registry import Registry
from kit import progress, say
from kit.errors import SlipworksError
from kit.nouns import Platform
from runner import agent_layer, images
from runner.bake_targets import repository

Compression = Literal["gzip", "zstd"]


# -- what is asked -------------------------------------------------------------------------------------------


class Places:
    """Registries and whatever else holds images, each opened once."""

    def __init__(self) -> None:
        self._registries: dict[str, Registry] = {}
        self._sources: dict[tuple[str, str], Source] = {}
        self._lock = threading.RLock()

    def source(self, origin: Origin) -> Source:
        with self._lock:
            name = (origin.kind, origin.place)
            if name not in self._sources:
                self._sources[name] = finding.source(origin, self._registry)
            return self._sources[name]

    def target(self, to: str) -> Target:
        return finding.target(to, self._registry)

    def _registry(self, host: str) -> Registry:
        with self._lock:
            if host not in self._registries:
                self._registries[host] = Registry(host)
            return self._registries[host]

    @property
    def requests(self) -> dict[str, int]:
        """By method, of all of them."""
        found: dict[str, int] = {}
        for registry in self._registries.values():
            for method, count in registry.counts.items():
                found[method] = found.get(method, 0) + count
        return found

    def quota(self, place: str) -> Quota | None:
        """What a registry said of its quota; what Docker Hub publishes where it has not said anything."""
        said = self._registries[place].quota if place in self._registries else None
        if said is not None and said.window:
            return Quota(said.limit, said.window, said.remaining)
        if place != HUB:
            return None
        return planning.HUB_KNOWN if credentials.lookup(HUB) else planning.HUB_ANONYMOUS


class Choices(Struct, frozen=True):
    """How images are baked; kept in the journal, so that every run does the same."""

    client_path: bool = True
    compression: Compression = "gzip"


def choices(journal: Journal, client_path: bool | None, compression: Compression | None) -> Choices:
    """What was asked for, or else what was before."""
    before = Choices(
        client_path=journal.noted("client path") != "no",
        compression="zstd" if journal.noted("compression") == "zstd" else "gzip",
    )
    return Choices(
        before.client_path if client_path is None else client_path, compression or before.compression
    )


def keep_choices(journal: Journal, made: Choices) -> None:
    journal.note("client path", "yes" if made.client_path else "no")
    journal.note("compression", made.compression)


def added(layer: agent_layer.AgentLayer, made: Choices) -> Added:
    """What a bake puts on every base."""
    return agent_layer.added(layer, client_path=made.client_path, wanted=made.compression)


def ours(what: Added | None) -> Sequence[Descriptor]:
    return [each.descriptor for each in (what.gzip, what.tiny) if each] if what else ()


# -- the work ------------------------------------------------------------------------------------------------


def entries(files: Iterable[tuple[Path, Kind]], to: str) -> Iterator[tuple[Entry, str, str]]:
    for path, kind in files:
        for entry in lists.read(path, kind):
            origin = Origin.parse(entry.base)
            yield entry, origin.place, repository(to, origin)


class Worked(Struct, frozen=True):
    session: Session
    forecast: Forecast


def work(
    journal: Journal, what: Work, do: Callable[[Row], None], places: Places, *, jobs: int, every: float,
    limit: int | None = None, wait: bool = True, moved: Callable[[], int] = lambda: 0,
) -> Session:  # fmt: skip
    """Does it for every image that is open, and writes the report, however it ends."""
    total = journal.afresh(what, limit)
    began, clock, ended = time.time(), time.monotonic(), "broken off"
    title = {"look": "looking", "bake": "baking", "mirror": "copying"}[what]
    crew = Crew(journal, what, do, jobs=jobs, wait=wait)
    try:
        if total:
            with progress.bar(title, total, every) as told:
                crew.told = lambda done, failed, note: told(done, _note(failed, moved(), note))
                crew.run()
        ended = "complete"
    except (KeyboardInterrupt, SystemExit):
        ended = "stopped"
        raise
    except SlipworksError as failure:
        ended = failure.message
        raise
    finally:
        session = Session(
            verb="plan" if what == "look" else "run", began=began, seconds=time.monotonic() - clock,
            done=crew.done, failed=crew.failed, bytes=moved(), requests=places.requests, ended=ended,
        )  # fmt: skip
        _finish(journal, session)
    return session


def _finish(journal: Journal, session: Session) -> None:
    """In a `finally`: what stopped the work is told, not that the report could not be written for it."""
    stopping = sys.exc_info()[0] is not None
    try:
        journal.tidy(journal.header.target.partition("/")[0])
        written = report.write(journal, session)
    except SlipworksError:
        if not stopping:
            raise
        return
    if written and session.done:
        say.say(f"report: {written[1]} and .json")


def _note(failed: int, moved: int, note: str) -> str:
    parts = (f"{failed} failed" if failed else "", f"{report.size(moved)} sent" if moved else "", note)
    return "; ".join(filter(None, parts))


def look(journal: Journal, places: Places, what: Added | None, *, jobs: int, every: float) -> Session:
    looker = Looker(journal, places.source, places.target(journal.header.target), what)
    return work(journal, "look", looker.look, places, jobs=jobs, every=every)


def make(
    journal: Journal, places: Places, what: Added | None, *, jobs: int, every: float, limit: int | None,
    wait: bool,
) -> Session:  # fmt: skip
    """what: None to copy the bases only."""
    to = places.target(journal.header.target)
    maker = Maker(journal, places.source, to, what)
    if what:
        journal.settle(what.address)
    kind: Work = "bake" if what else "mirror"
    with journal.settling(to.close):
        return work(
            journal, kind, maker.make, places, jobs=jobs, every=every, limit=limit, wait=wait,
            moved=lambda: maker.moved,
        )  # fmt: skip


def foreseen(journal: Journal, places: Places, what: Added | None) -> Forecast:
    return forecast(journal, ours(what), places.quota)


def found_layer(platform: Platform) -> agent_layer.AgentLayer | None:
    """Milliseconds; builds nothing."""
    return agent_layer.find(platform, images.store())


def made_layer(platform: Platform) -> agent_layer.AgentLayer:
    """Makes it where it is not there yet."""
    return agent_layer.made(platform, images.store())


def as_json(journal: Journal, to_come: Forecast, *, layer: bool) -> str:
    """The answer of `plan`."""
    fetches = [{**structs.asdict(each), "seconds": each.seconds} for each in to_come.fetches]
    told = {**structs.asdict(to_come), "fetches": fetches, "seconds": to_come.seconds, "layer": layer}
    return json.format(json.encode({**report.summary(journal), "to_come": told})).decode()
