"""The slipworks layer for images that have none, or that of another kit: mounted read-only at its place.

Made once for each of its keys, in the folder of the cache, which all nodes see: a squashfs for apptainer,
a folder for engines that mount no such file.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from containers import bootstrap, layer, layer_tree
from definitions import layers
from image_cache import unpacking
from image_cache.store import Store
from kit import files, process, say
from kit.nouns import LayerSpec, Platform
from runner import building, finishing

NAME = "slipworks"


def rides_in(labels: Mapping[str, str]) -> bool:
    """Whether an image, by what it says of itself, has the layer of just this kit: then none is mounted."""
    return finishing.OURS in labels and labels.get("slipworks.version") == layer_tree.version()


def path_of(store: Store, platform: Platform, engine: str) -> Path:
    """Where it lies, or will: pure apart from reading this kit's own files."""
    name = f"{NAME}-{layer.key(_spec(), platform)[:16]}"
    return store.root.parent / "layers" / (f"{name}.sqfs" if engine == "apptainer" else name)


def made(store: Store, platform: Platform, engine: str) -> Path:
    """The file or folder, made now if it is not there. Atomic; of two that make it one wins."""
    path = path_of(store, platform, engine)
    if path.exists():
        return path
    with files.beside(path) as place:
        place.mkdir(parents=True)
        tree = place / "tree"
        _put(store, platform, tree)
        made_of = tree / _spec().folder.lstrip("/")
        if path.suffix == ".sqfs":
            _squash(made_of, place / "squashed")
            files.settle(place / "squashed", path)
        elif not path.exists():
            files.settle(made_of, path)
    return path


def _put(store: Store, platform: Platform, tree: Path) -> None:
    """The layer's files: this very kit's where it runs from one, else unpacked, and built if need be."""
    spec = _spec()
    own = Path(spec.folder)
    if Path(__file__).is_relative_to(own) and platform == Platform.host():
        shutil.copytree(own, tree / own.relative_to("/"), symlinks=True)
        return
    found = building.layer_artifact(spec, platform, store)
    with say.step(f"unpacking the layer {NAME} for {platform}"):
        unpacking.unpack_layer(store, found.descriptor, tree)


def _squash(folder: Path, out: Path) -> None:
    argv: list[str | Path] = ["mksquashfs", folder, out, "-all-root", "-no-progress", "-quiet", "-noappend"]
    process.find("mksquashfs", "sudo apt-get install squashfs-tools")
    process.run(argv, what=f"pack the layer {NAME}")


def _spec() -> LayerSpec:
    return layers.load(NAME, bootstrap.host_distribution())
