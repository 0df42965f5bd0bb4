"""A self-contained layer as engines mount it: a squashfs for apptainer, a folder for those that take no file.

Made once for each key of the layer, in the folder of the cache, which all nodes see, and marked when it is
asked for: what nobody asked for in many days is garbage. What is mounted are the files of the layer's one
top-level folder.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from containers import layer, sif
from image_cache import stamps, unpacking
from image_cache.ensure import once_only
from image_cache.store import Store
from kit import files, process, say
from kit.nouns import LayerSpec, Platform
from runner import building

Put = Callable[[Path], None]
"""Puts the layer's files below a folder, as they lie in a root file system."""


def path_of(store: Store, spec: LayerSpec, platform: Platform, *, squashed: bool) -> Path:
    """Where it lies, or will: pure apart from reading this kit's own files."""
    name = f"{spec.name}-{layer.key(spec, platform)[:16]}"
    return store.root.parent / "layers" / (f"{name}.sqfs" if squashed else name)


def made(
    store: Store, spec: LayerSpec, platform: Platform, *, squashed: bool, put: Put | None = None
) -> Path:
    """The file or folder, made now if it is not there. Atomic; of all that ask at once one makes it.

    put: None takes the files from the store's layer, which is built if need be.
    """
    path = path_of(store, spec, platform, squashed=squashed)
    put = put or (lambda tree: _unpack(store, spec, platform, tree))

    def find() -> Path | None:
        return path if stamps.hit(path) else None

    def make() -> Path:
        with files.beside(path) as place:
            place.mkdir(parents=True)
            put(place / "tree")
            folder = place / "tree" / spec.folder.lstrip("/")
            if squashed:
                with say.step(f"packing the layer {spec.name} as a squashfs"):
                    squash(folder, place / "squashed")
                folder = place / "squashed"
            with contextlib.nullcontext() if squashed else _there_already(path):
                files.settle(folder, path)
        return path

    return once_only(store, layer.key(spec, platform), "squashfs" if squashed else "folder", find, make)


@contextlib.contextmanager
def _there_already(path: Path) -> Iterator[None]:
    """A folder cannot replace one that another host put there meanwhile: they are the same."""
    try:
        yield
    except OSError:
        if not path.is_dir():
            raise


def _unpack(store: Store, spec: LayerSpec, platform: Platform, tree: Path) -> None:
    found = building.layer_artifact(spec, platform, store)
    with say.step(f"unpacking the layer {spec.name} for {platform}"):
        unpacking.unpack_layer(store, found.descriptor, tree)


def squash(folder: Path, out: Path) -> None:
    """Packs a folder's files. Equal files give equal bytes where mksquashfs (4.4 on) and its zstd are the
    same: owners are root, no time is later than 1980, and cores do not change the order."""
    process.find("mksquashfs", "sudo apt-get install squashfs-tools")
    argv: list[str | Path] = ["mksquashfs", folder, out, "-no-progress", "-quiet", "-noappend", "-no-xattrs"]
    env = {**os.environ, "SOURCE_DATE_EPOCH": str(sif.EARLIEST)}
    process.run([*argv, *sif.squash().split()], what=f"pack {folder.name} as a squashfs", env=env)


def copy(folder: Path, to: Path) -> None:
    """A layer's folder where this very process runs from one, below `to`."""
    shutil.copytree(folder, to / folder.relative_to("/"), symlinks=True)
