"""Whose Python byte-compiles what images are made of: that of the runner's layer, or that of the base.

The runner's layer needs its distribution's Python for this machine in any case. Byte code knows no machine,
and one format within a minor version: where that is the base's, nothing of the base is run, whatever its
platform, and a newer base leaves the stack's layers as they are.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path

from containers import debs, layer
from containers.interpreter import Interpreter
from image_cache.store import Store
from kit import say
from kit.nouns import Base, LayerSpec, Platform
from runner import scratch

Python = Callable[[], Interpreter]
"""Gives a native Python; the first call may take a while, and tell of it."""


def fits(own: LayerSpec, ground: Base) -> bool:
    """Whether the runner's layer brings a Python that compiles for a base, without an image to unpack."""
    return own.base is None and own.python == ground.python


def named(own: LayerSpec, ground: Base, platform: Platform) -> str | None:
    """What a key says of the compiler, the same on every machine; None where it is the base's own.

    A version that the archive no longer carries gives way to a newer one, as in the runner's layer: the key
    does not tell, and the format is the same.
    """
    if not fits(own, ground):
        return None
    name = f"python{own.python}-minimal"
    pin = debs.read_pins(own.pins.get(platform.arch, ""), f"layer {own.name}").get(name)
    return f"{own.distribution} {own.suite} {name} {pin.version if pin else 'as it is there'}"


class Folder:
    """Files that are put into a folder when they are first asked for, by any thread, while others wait; gone
    when `stays` ends."""

    def __init__(self, fill: Callable[[Path], None], store: Store, stays: contextlib.ExitStack) -> None:
        self.fill, self.store, self.stays = fill, store, stays
        self.filled: Path | None = None
        self._turn = threading.Lock()

    def root(self) -> Path:
        with self._turn:
            if self.filled is None:
                root = self.stays.enter_context(scratch.folder(self.store, "build-")) / "root"
                self.fill(root)
                self.filled = root
            return self.filled


def of_layer(own: LayerSpec, store: Store, stays: contextlib.ExitStack) -> Python:
    """The Python of the runner's layer, of packages that the layer will find kept."""

    def fetch(root: Path) -> None:
        with say.step(f"taking Python {own.python} of {own.suite}") as update:
            layer.fetched(own, Platform.host(), root, update)

    return of_folder(Folder(fetch, store, stays), f"{own.prefix}/bin/python{own.python}")


def of_folder(files: Folder, program: str) -> Python:
    """A Python among some files, of this machine's platform; they are asked for by its first call."""
    return lambda: Interpreter(root=files.root(), program=program)
