"""From the image that a client wishes for to one that an engine can start: `of` gives what does it.

However many ask for one image at once, it is brought once, and all of them get what came of it. What takes
longer than a server waits for goes on: who asks again finds it, or waits for the rest.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Generic, TypeVar

from msgspec import Struct

from image_cache import oci
from image_cache.places import Origin
from image_cache.registry import Registry
from image_cache.store import Store
from image_cache.unfit import WrongPlatformError
from kit.errors import NetworkError, NotFoundError, UnsupportedError
from kit.nouns import Platform
from runner import agent_layer
from runner.sandboxes.commands import Said
from runner.sandboxes.host import ImageFound, Images
from runner.sandboxes.nouns import Wish
from runner.sandboxes.settings import Settings

T = TypeVar("T")
FRESH = 600.0  # seconds for which an image that a registry had counts as there: each look costs of its quota
MOST = 4096  # images that are remembered so
SETTLED, AGAIN = 10.0, 0.2  # seconds for what was told to end, and between two times that it is told
BEGINNING = "1970-01-01T00:00:00Z"


def of(settings: Settings, engine: str) -> Images:
    """The images of podman, docker or apptainer, by the user's own store. Asks and makes nothing yet."""
    if engine == "apptainer":
        from runner.sandboxes.sif_images import SifImages

        return SifImages(settings)
    from runner.sandboxes.engine_images import EngineImages

    return EngineImages(settings, engine)


class Had(Struct, frozen=True, kw_only=True):
    """An image that the engine has by `reference`, and what its config says."""

    reference: str
    said: Said


class Layer:
    """The agent-server's layer, for images that have none. given: where it lies; None: the store's own is
    mounted, which is made when it is first needed."""

    def __init__(self, given: str | None, engine: str, store: Store) -> None:
        self.given = Path(given) if given else None
        self.engine, self.store = engine, store
        self.start = agent_layer.start(agent_layer.spec().folder)

    def mount(self) -> tuple[str, ...]:
        """Words for the engine. Asked each time: what is used stays in the store."""
        made = agent_layer.squashfs if self.engine == "apptainer" else agent_layer.unpacked
        path = self.given or made(Platform.host(), self.store)
        if self.given and not path.exists():
            raise NotFoundError(f"the agent-server's layer is not at {path}", "runner sandbox serve --help")
        return tuple(agent_layer.mount_argv(self.engine, path))


def place(image: str) -> Origin:
    """What a client's name means in a registry. InvalidFileError for what is no name; UnsupportedError for
    files of this machine, which are not a client's to name."""
    origin = Origin.parse(image)
    if origin.kind != "registry":
        raise UnsupportedError(f"{image} is in no registry", "push it to one, or load it into the engine")
    if origin.digest:  # engines take a tag or a digest
        return Origin("registry", origin.place, origin.repository, digest=origin.digest)
    return origin


def absent(image: str, why: str = "") -> NotFoundError:
    """One that is not here, and may not be pulled."""
    told = why or "it is not here, and its pull policy is Never"
    hint = "look at the name" if why else "ask with image_pull_policy IfNotPresent"
    return NotFoundError(f"no image {image}: {told}", hint)


class Together(Generic[T]):
    """Work by name: all who ask for it while it is done get what comes of it, also its failure."""

    def __init__(self, within: float) -> None:
        self.within = within
        self._under_way: dict[Hashable, Future[T]] = {}
        self._lock = threading.Lock()

    def __call__(self, name: Hashable, what: str, work: Callable[[], T]) -> T:
        """NetworkError where it takes too long; it goes on then."""
        with self._lock:
            found = self._under_way.get(name)
            if found is None:
                found = self._begun(name, what, work)
        try:
            return found.result(self.within)
        except TimeoutError:
            if found.done():  # it was the work's own
                raise
            raise NetworkError(
                f"the image {what} is not here after {self.within:g} s; it is still being brought",
                "ask again, or before agents need it: runner prebuild",
            ) from None

    def settle(self, tell: Callable[[], None]) -> None:
        """Waits for what is under way to end and tidy up. It is told again and again: a program of it may be
        begun just after it was told."""
        end = time.monotonic() + SETTLED
        while time.monotonic() < end:
            tell()
            with self._lock:
                left = list(self._under_way.values())
            if not wait(left, AGAIN).not_done:
                return

    def _begun(self, name: Hashable, what: str, work: Callable[[], T]) -> Future[T]:
        """Under way once its thread is: where none is to be had, who asks again tries again."""
        found: Future[T] = Future()
        thread = threading.Thread(
            target=self._do, args=(name, work, found), name=f"image {what}", daemon=True
        )  # fmt: skip
        self._under_way[name] = found
        try:
            thread.start()
        except BaseException:  # as many as this user may have
            del self._under_way[name]
            raise
        return found

    def _do(self, name: Hashable, work: Callable[[], T], found: Future[T]) -> None:
        try:
            result = work()
        except BaseException as failure:  # all who wait are told
            self._ended(name)
            found.set_exception(failure)
            return
        self._ended(name)
        found.set_result(result)

    def _ended(self, name: Hashable) -> None:
        with self._lock:
            self._under_way.pop(name, None)


class InRegistries:
    """Whether registries have images; what they have is remembered for a while."""

    def __init__(self, registry: Callable[[str], Registry] | None = None) -> None:
        self._registry = registry or (lambda host: Registry(host, timeout=20.0, patience=5.0))
        self._known: dict[str, tuple[float, ImageFound]] = {}

    def find(self, image: str) -> ImageFound | None:
        """None: the registry answered that it has none, or none for this machine."""
        origin = place(image)
        before, found = self._known.get(str(origin), (0.0, None))
        if found and time.monotonic() - before < FRESH:
            return found
        found = self._ask(origin)
        if found:
            if len(self._known) >= MOST:
                self._known.clear()
            self._known[str(origin)] = time.monotonic(), found
        return found

    def _ask(self, origin: Origin) -> ImageFound | None:
        try:
            raw, config, _ = self._registry(origin.place).opened(origin.reference, Platform.host())
        except (NotFoundError, WrongPlatformError):
            return None
        layers = oci.manifest(raw, str(origin)).layers
        made = oci.config(config, str(origin)).get("created")
        return ImageFound(size=sum(each.size for each in layers), uploaded=str(made or BEGINNING))


def key(wish: Wish) -> Hashable:
    """What is brought once for all wishes that share it."""
    return wish.image, wish.pull
