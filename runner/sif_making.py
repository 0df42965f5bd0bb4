"""SIFs of thousands of images: some at once, each once, and none half.

What is there is not made again, and nobody is asked about it. A SIF appears in the store whole or not at all,
and of several processes, on whatever hosts, one makes it (image_cache/ensure.py). So whatever is killed, the
same command goes on where it was.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from containers.engines.apptainer import Apptainer
from image_cache import transfer
from image_cache.ensure import ensure
from image_cache.prebuild import planning
from image_cache.prebuild.lists import Entry
from image_cache.prebuild.schema import ErrorClass
from image_cache.store import Store
from kit import files, process, share
from kit.errors import NetworkError, NoSpaceError, QuotaError, SlipworksError
from kit.nouns import Image, digest_file
from runner import finishing, known, proof, record
from runner.sif_layers import Layers
from runner.sif_sources import Source, Sources

MEMORY_EACH = 1 << 30  # bytes for each SIF that is being made
OUTAGE = 5  # images of a registry in a row that failed of it, each after all its tries: the rest is left
MOST = 8  # at once, unless more are asked for: a registry and a disk have their limits too


class Done(Struct, frozen=True, kw_only=True):
    """What became of one image.

    state   "there": it was before; "made"; "fetched": its layers are in the store; "left": not tried, for
            what stopped another one would stop it too; "failed".
    sif     the file, with its digest and size. seconds: from its turn to its end.
    error_class, error, hint   of what failed or was left.
    """

    reference: str
    names: tuple[str, ...] = ()
    state: str
    sif: str | None = None
    digest: str | None = None
    size: int | None = None
    seconds: float = 0.0
    error_class: ErrorClass | None = None
    error: str | None = None
    hint: str | None = None


def jobs_here() -> int:
    """How many at once: a processor and some memory each, of what this process may use."""
    return max(1, min(share.cpus(), share.memory() // MEMORY_EACH, MOST))


class Sifs:
    """Makes SIFs of one platform in one store. Threads may share it.

    fetch  only brings the layers into the store, where they stay, for hosts that reach no registry.
    pin    keeps each SIF from `runner image gc`.
    """

    def __init__(
        self, store: Store, sources: Sources, layers: Layers, *, at_once: int, fetch: bool = False,
        pin: bool = False,
    ) -> None:  # fmt: skip
        self.store, self.sources, self.layers = store, sources, layers
        self.at_once, self.fetch, self.pin = at_once, fetch, pin
        self.apptainer = Apptainer()
        self.version = "" if fetch else self.apptainer.check()
        self._ended = threading.Event()
        self._stopped: dict[str, SlipworksError] = {}
        self._unanswered: Counter[str] = Counter()  # images in a row, by registry
        self._lock = threading.Lock()

    def make(self, entry: Entry) -> Done:
        """What became of an image, whatever it was: raises nothing that ends but the one."""
        began = time.monotonic()
        for tries in itertools.count(1):
            if stop := self._stop_of(entry):
                return _failed(entry, stop, state="left")
            try:
                made = self.made(entry)
                self._go_on(entry, made)
                return replace(made, seconds=round(time.monotonic() - began, 2))
            except SlipworksError as failure:
                pause = planning.pause(planning.error_class(failure), tries)
                if pause is None:
                    self._stop_by(entry, failure)
                    return _failed(entry, failure, seconds=round(time.monotonic() - began, 2))
                self._ended.wait(pause)
            except Exception as unforeseen:  # of one image: the others need not suffer
                told = SlipworksError(f"{type(unforeseen).__name__}: {unforeseen}")
                return _failed(entry, told, seconds=round(time.monotonic() - began, 2))
        raise AssertionError("it is tried until it returns")

    def made(self, entry: Entry) -> Done:
        """One image, tried once; raises what failed."""
        source = self.sources.of(entry.base)
        if self.fetch:
            client = self.sources.client(source.wanted.host)
            platform, store = self.sources.platform, self.store
            transfer.bring(
                source.wanted, source.manifest, platform, store, client, self._hear, key=source.key
            )
            return _done(entry, "fetched", None)
        mine: list[Image] = []  # else it was there, or another made it meanwhile

        def build() -> Image:
            mine.append(self._put(source))
            return mine[0]

        sif = ensure(self.store, source.key, "sif", build)
        if self.pin:
            self.store.pins.put(source.key, "sif")
        return _done(entry, "made" if mine else "there", sif)

    def end(self) -> None:
        """Lets what threads are at fail soon. For a process that is interrupted."""
        self._ended.set()
        process.end_streams()

    def _hear(self, line: str) -> None:
        """Of many at once nobody could follow the lines; they come often enough to end by."""
        if self._ended.is_set():
            raise SlipworksError("it was interrupted")

    def _put(self, source: Source) -> Image:
        mine = self.store.find(source.key, "oci")
        if mine:
            return self._converted(mine, self.store)
        client = self.sources.client(source.wanted.host)
        with self.layers.pulled(source, self.sources.platform, client, self._hear) as image:
            return self._converted(image, self.layers.at)

    def _converted(self, image: Image, at: Store) -> Image:
        """at: the store that has the image."""
        self._hear("")
        with files.beside(self.store.root / f"{image.name}.sif") as out:
            self.apptainer.convert(image, out, self._hear, at_once=self.at_once)
            made = replace(image, format="sif", digest=digest_file(out), path=out)
            if finishing.OURS in image.labels:  # what others made need not be what ours must be
                proved = proof.prove(self.store, replace(made, name=f"{made.name}.sif"), self._hear)
                proof.demand(proved.report, image.name, (image.name, "--format", "oci"))
            about = record.with_sif(known.of(at, image).record, made, self.version)
            record.write(self.store, about, None, sif_to_come=True)
            return self.store.put_sif(
                out, key=image.key, name=image.name, platform=image.platform, labels=image.labels,
                digest=made.digest,
            )  # fmt: skip

    def _stop_of(self, entry: Entry) -> SlipworksError | None:
        with self._lock:
            return self._stopped.get("") or self._stopped.get(host_of(entry))

    def _go_on(self, entry: Entry, made: Done) -> None:
        if made.state != "there":  # for which no registry was asked
            with self._lock:
                self._unanswered.pop(host_of(entry), None)

    def _stop_by(self, entry: Entry, failure: SlipworksError) -> None:
        """A full disk stops all that follow; a quota that is used up, or an outage, all of that registry."""
        host, kind = host_of(entry), planning.error_class(failure)
        with self._lock:
            if isinstance(failure, NoSpaceError):
                self._stopped.setdefault("", failure)
            elif isinstance(failure, QuotaError):
                self._stopped.setdefault(host, failure)
            if kind != "transient":
                self._unanswered.pop(host, None)
                return
            self._unanswered[host] += 1
            if self._unanswered[host] >= OUTAGE:
                told = f"{OUTAGE} images of {host} failed in a row, the last: {failure.message}"
                self._stopped.setdefault(host, NetworkError(told, "the same command goes on when it answers"))


def make_all(sifs: Sifs, entries: Sequence[Entry], told: Callable[[Done], None]) -> list[Done]:
    """What became of each, in the order of the list; `told` hears of each at once. An interruption ends what
    runs, and passes through."""
    found: dict[str, Done] = {}
    with ExitStack() as ends:
        pool = ThreadPoolExecutor(sifs.at_once, thread_name_prefix="sif")
        ends.callback(pool.shutdown, cancel_futures=True)
        try:
            for future in as_completed([pool.submit(sifs.make, each) for each in entries]):
                done = future.result()
                found[done.reference] = done
                told(done)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            sifs.end()
            raise
    return [found[each.base] for each in entries]


def host_of(entry: Entry) -> str:
    return entry.base.partition("/")[0]


def _done(entry: Entry, state: str, sif: Image | None) -> Done:
    path = str(sif.path) if sif else None
    size = Path(path).stat().st_size if path else None
    return Done(
        reference=entry.base, names=entry.names, state=state, sif=path, digest=sif.digest if sif else None,
        size=size,
    )  # fmt: skip


def _failed(entry: Entry, failure: SlipworksError, state: str = "failed", seconds: float = 0.0) -> Done:
    return Done(
        reference=entry.base, names=entry.names, state=state, seconds=seconds,
        error_class=planning.error_class(failure), error=failure.message, hint=failure.hint,
    )  # fmt: skip
