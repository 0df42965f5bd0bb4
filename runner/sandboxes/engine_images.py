"""The images of podman and docker: in the engine's own store, pulled as the wish says.

A base without an agent-server gets the layer mounted; or, where the server was told a registry for it, it is
baked there, and what was baked is pulled in its place.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from containers import complaints
from containers import engine as engines
from image_cache import oci
from image_cache.places import Origin
from kit import process
from kit.errors import HostError
from kit.nouns import Platform
from runner import own_store, sandbox_proof
from runner.sandboxes import commands, images
from runner.sandboxes.baking import Baker
from runner.sandboxes.host import ImageFound
from runner.sandboxes.images import Had, InRegistries, Together
from runner.sandboxes.nouns import Pull, Ready, Wish
from runner.sandboxes.settings import Settings

_TOLD = (
    '{"config":{{json .Config}},"size":{{.Size}},"created":{{json .Created}},'
    '"os":{{json .Os}},"architecture":{{json .Architecture}}}'
)
_NONE = re.compile(r"no such (image|object)|image not known|unable to find", re.IGNORECASE)
"""What podman and docker say of an image that they have not."""


_NO_REGISTRY = "it is not here, and localhost without a port is no registry to pull it from"


class Here(Struct, frozen=True):
    """What the engine tells of an image that it has."""

    config: dict[str, Any]
    size: int
    created: str
    os: str
    architecture: str


class EngineImages:
    """Threads may share it."""

    def __init__(self, settings: Settings, engine: str, *, baker: Baker | None = None) -> None:
        self.settings = settings
        self.engine = engines.get(engine)
        self.platform = Platform.host()
        self.store = own_store.store()
        self.baker = baker or (
            Baker(settings.bake_to, self.platform, self.store) if settings.bake_to else None
        )
        self._layer = images.Layer(settings.layer, engine, self.store)
        self._brought: Together[Had] = Together(settings.pull_within)
        self._registries = InRegistries()
        self._stop = threading.Event()

    def ready(self, wish: Wish) -> Ready:
        had = self._brought(images.key(wish), wish.image, lambda: self._had(wish.image, wish.pull))
        begin = commands.begun(had.said, wish.command, self._layer.start)
        return Ready(
            reference=had.reference, mount=self._layer.mount() if begin.mounted else (),
            entrypoint=begin.entrypoint, command=begin.command,
        )  # fmt: skip

    def exists(self, image: str) -> ImageFound | None:
        for name in _names(image):
            if here := self._here(name):
                return ImageFound(size=here.size, uploaded=here.created or images.BEGINNING)
        return self._registries.find(image)

    def close(self) -> None:
        """Ends what is being brought."""
        self._brought.settle(self._stop.set)

    def _had(self, image: str, pull: Pull) -> Had:
        if not _could_be_pulled(image):
            pull = "Never"
        found = None if pull == "Always" else self._found(image)
        bakes = self.baker is not None and pull != "Never"
        if found and not (bakes and commands.kind(found.said) == "bare"):
            return found
        if pull == "Never":
            raise images.absent(image, "" if _could_be_pulled(image) else _NO_REGISTRY)
        if bakes and (baked := self._baked(images.place(image), again=pull == "Always")):
            return baked
        return self._pulled(images.place(image))

    def _baked(self, origin: Origin, *, again: bool) -> Had | None:
        """What a base becomes; None: it is none, it serves by itself."""
        assert self.baker is not None
        reference = self.baker.baked(origin, again=again)
        if reference is None:
            return None
        return self._found(reference) or self._pulled(Origin.parse(reference))

    def _found(self, image: str) -> Had | None:
        for name in _names(image):
            if here := self._here(name):
                oci.check_platform({"os": here.os, "architecture": here.architecture}, self.platform, image)
                return Had(reference=name, said=commands.said(here.config))
        return None

    def _pulled(self, origin: Origin) -> Had:
        name = sandbox_proof.pulled(
            self.engine, origin, self.platform, self._stop, within=self.settings.pull_within
        )
        found = self._found(name)
        if found is None:
            raise HostError(
                f"{self.engine.name} pulled {name}, and does not have it", f"{self.engine.name} images"
            )
        return found

    def _here(self, name: str) -> Here | None:
        argv = _asking(self.engine.inspect_argv(name))
        done = process.run(argv, what=f"look at {name}", check=False)
        if done.code == 0:
            return Here(**json.loads(done.out))
        if _NONE.search(done.err + done.out):
            return None
        what = f"ask {self.engine.name} for {name}"
        raise complaints.explain(what, done.err + done.out, None, error=HostError, code=done.code)


def _asking(argv: Sequence[str]) -> list[str]:
    """The engine's question for a config, with more of an answer."""
    return [f"--format={_TOLD}" if word.startswith("--format=") else word for word in argv]


def _names(image: str) -> tuple[str, ...]:
    """What an engine may have it by: as a registry is asked for it; a short one also as it stands there,
    which is how engines call what was built on this machine."""
    whole = str(images.place(image))
    return tuple(dict.fromkeys((whole, image)))


def _could_be_pulled(image: str) -> bool:
    """`localhost` without a port is no registry but podman's word for what was built on this machine."""
    return images.place(image).place != "localhost"
