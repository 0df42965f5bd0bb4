"""A registry as the place that bases come from and baked images go to."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager

from image_cache import oci
from image_cache.oci import Descriptor
from image_cache.places import Fetched, Known, Seen, Source, blame
from image_cache.places.files import checked
from image_cache.places.origin import Origin
from image_cache.places.turns import Turns
from image_cache.references import Reference
from image_cache.registry import Registry
from image_cache.unfit import LostLayerError
from kit.errors import NotFoundError, UnsupportedError
from kit.nouns import Platform


class RegistrySource:
    """Bases in a registry."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.name = registry.host

    def look(self, origin: Origin) -> Seen | None:
        found = self.registry.look(origin.reference)
        return None if found is None else Seen(*found, counted=self.registry.quota is not None)

    def image(self, origin: Origin, platform: Platform) -> Fetched:
        return Fetched(*self.registry.opened(origin.reference, platform))

    def blob(self, repository: str, blob: Descriptor) -> Iterator[bytes]:
        return checked(self.registry.blob(repository, blob), blob, f"{self.name}/{repository}")


class RegistryTarget:
    """A registry that baked images are pushed to."""

    oci_only = False

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.name = registry.host
        self._turns = Turns()

    def find(self, repository: str, tag: str) -> str | None:
        return self.registry.head(Reference(self.name, repository, tag))

    def labels(self, repository: str, digest: str) -> dict[str, str]:
        at = Reference(self.name, repository, None, digest)
        raw, kind = self.registry.manifest(at)
        if kind in (oci.INDEX, oci.DOCKER_LIST):
            return {}
        config = self.registry.small_blob(repository, oci.manifest(raw, f"{at}").config)
        return oci.labels(oci.config(config, f"{at}"))

    def together(
        self, repository: str, source: Source, source_repository: str, holders: Iterable[str | None]
    ) -> AbstractContextManager[None]:
        mounted = [source_repository] if source.name == self.name else []
        others = {*mounted, *filter(None, holders)} - {repository}
        return self.registry.together((repository, "pull,push"), *((one, "pull") for one in sorted(others)))

    def take(
        self, repository: str, blob: Descriptor, source: Source, source_repository: str, known: Known
    ) -> int:
        with self._turns(repository, blob.digest):
            if known.has(repository, blob.digest):
                return 0
            sent = self._taken(repository, blob, source, source_repository, known)
            known.add(repository, blob.digest)
            return sent

    def _taken(
        self, repository: str, blob: Descriptor, source: Source, source_repository: str, known: Known
    ) -> int:
        if source.name == self.name:
            if source_repository == repository or self._mounted(repository, blob, source_repository):
                return 0
        elif self._from_holder(repository, blob, known):
            return 0
        with self._turns(blob.digest), self._pushing(repository):
            # Whoever had the turn before may have brought it to the target.
            if self._from_holder(repository, blob, known) or self.registry.has_blob(repository, blob):
                return 0
            self.registry.put_blob(repository, blob, lambda: _of_base(source, source_repository, blob))
            known.add(repository, blob.digest)
            return blob.size

    def _from_holder(self, repository: str, blob: Descriptor, known: Known) -> bool:
        holder = known.holder(blob.digest)
        if holder is None or holder == repository:
            return False
        if self._mounted(repository, blob, holder):
            return True
        known.forget(holder, blob.digest)
        return False

    def _mounted(self, repository: str, blob: Descriptor, holder: str) -> bool:
        with self._pushing(repository):
            return self.registry.mount(repository, blob, holder)

    def give(self, repository: str, blob: Descriptor, raw: bytes) -> int:
        with self._pushing(repository):
            self.registry.put_blob(repository, blob, lambda: iter([raw]))
        return len(raw)

    def put(self, repository: str, tag: str, raw: bytes, media_type: str) -> str:
        with self._pushing(repository):
            return self.registry.put_manifest(Reference(self.name, repository, tag), raw, media_type)

    def close(self) -> None:
        pass

    @contextlib.contextmanager
    def _pushing(self, repository: str) -> Iterator[None]:
        """That a registry has no place for us says nothing about the base."""
        try:
            yield
        except NotFoundError as nowhere:
            raise UnsupportedError(
                f"{self.name} has no repository {repository} and makes none: {nowhere.message}",
                "create it there, or the project that it belongs to",
            ) from nowhere


def _of_base(source: Source, repository: str, blob: Descriptor) -> Iterator[bytes]:
    """While its bytes are pushed nothing else may be taken for what the target has not."""
    try:
        yield from source.blob(repository, blob)
    except NotFoundError as lost:
        with blame.asking("base"):
            raise LostLayerError(f"the base lacks a layer: {lost.message}", "push the base again") from lost
