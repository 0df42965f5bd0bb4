"""The images of Apptainer: SIFs of this user's store, made when they are first asked for; or a SIF's path.

What `runner prebuild sif` made is found without asking anybody, so a node that reaches no registry starts it.
What the image's config said (user, working folder, entrypoint), apptainer keeps in the SIF.
"""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from pathlib import Path

from containers import sif_parts
from image_cache import oci
from image_cache.prebuild.lists import Entry
from kit.errors import NotFoundError, SlipworksError
from kit.nouns import Image, Platform
from runner import own_store, prebuilding_sifs, sif_layers, sif_making
from runner.sandboxes import commands, images
from runner.sandboxes.host import ImageFound
from runner.sandboxes.images import Had, InRegistries, Together
from runner.sandboxes.nouns import Pull, Ready, Wish
from runner.sandboxes.settings import Settings
from runner.sandboxes.sif_names import SifNames
from runner.sif_making import Sifs
from runner.sif_sources import Source, Sources

ROOT = "root"


class SifImages:
    """Threads may share it."""

    def __init__(self, settings: Settings, *, sources: Sources | None = None) -> None:
        self.platform = Platform.host()
        self.store = own_store.store()
        self._notes = prebuilding_sifs.folder(self.platform) / "images"
        self._sources = sources or Sources(self._notes, self.platform)
        self._names = SifNames(prebuilding_sifs.folder(self.platform), self.store, self._sources)
        self._layer = images.Layer(settings.layer, "apptainer", self.store)
        self._brought: Together[Had] = Together(settings.pull_within)
        self._registries = InRegistries()
        # Each of as many processors as sandboxes leave.
        self._jobs = max(1, min(settings.reserve, sif_making.jobs_here()))
        self._making: list[Sifs] = []
        self._closed = False
        self._turns = threading.BoundedSemaphore(self._jobs)

    def ready(self, wish: Wish) -> Ready:
        had = self._brought(images.key(wish), wish.image, lambda: self._had(wish.image, wish.pull))
        begin = commands.begun(had.said, wish.command, self._layer.start)
        return Ready(
            reference=had.reference, mount=self._layer.mount() if begin.mounted else (), command=begin.whole,
            user=had.said.user or ROOT, workdir=had.said.workdir,
        )  # fmt: skip

    def exists(self, image: str) -> ImageFound | None:
        if path := _file(image):
            return _found(path) if path.is_file() else None
        sif = self._here(image)
        return _found(sif.path) if sif else self._registries.find(image)

    def close(self) -> None:
        """Ends what is being brought."""
        self._closed = True
        self._brought.settle(self._end)

    def _had(self, image: str, pull: Pull) -> Had:
        if path := _file(image):
            if not path.is_file():
                raise NotFoundError(f"no image {image}: there is no such file", "runner prebuild sif LIST")
            if arch := sif_parts.root(path).arch:
                oci.check_platform({"os": "linux", "architecture": arch}, self.platform, image)
            return _known(path)
        if pull == "Always":
            sources = Sources(self._notes, self.platform, refresh=True)
            source = sources.of(str(images.place(image)))
            return _known((self.store.find(source.key, "sif") or self._made(source, sources)).path)
        if sif := self._here(image):
            return _known(sif.path)
        if pull == "Never":
            raise images.absent(image)
        return _known(self._made(self._sources.of(str(images.place(image))), self._sources).path)

    def _here(self, image: str) -> Image | None:
        """Without asking anybody."""
        if named := self._names.find(image):
            return named
        base = str(images.place(image))
        source = self._sources.known(base)
        return self._names.find(base) or (self.store.find(source.key, "sif") if source else None)

    def _end(self) -> None:
        for each in tuple(self._making):
            each.end()

    def _check(self) -> None:
        if self._closed:
            raise SlipworksError("the server is ending: no SIF is made any more")

    def _made(self, source: Source, sources: Sources) -> Image:
        with self._turns, sif_layers.on_the_way(self.store, budget=0) as layers:
            self._check()
            sifs = Sifs(self.store, sources, layers, at_once=self._jobs)
            self._making.append(sifs)
            try:
                sifs.made(Entry(source.reference))
            finally:
                self._making.remove(sifs)
        found = self.store.find(source.key, "sif")
        if found is None:
            raise NotFoundError(f"the SIF of {source.reference} was made, and is gone", "ask again")
        return found


def _known(path: Path) -> Had:
    return Had(reference=str(path), said=commands.said(sif_parts.config(path)))


def _file(image: str) -> Path | None:
    """A SIF by its path; a name that only looks a little like one is an image of a registry."""
    path = Path(image)
    return path if path.is_absolute() and path.suffix == ".sif" else None


def _found(path: Path) -> ImageFound:
    found = path.stat()
    made = datetime.fromtimestamp(found.st_mtime, UTC).isoformat(timespec="seconds")
    return ImageFound(size=found.st_size, uploaded=made)
