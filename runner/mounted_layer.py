"""The slipworks layer for images that have none, or that of another kit: mounted read-only at its place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from containers import bootstrap, layer_tree
from definitions import layers
from image_cache.store import Store
from kit.nouns import LayerSpec, Platform
from runner import finishing, layer_mounts

NAME = "slipworks"


def rides_in(labels: Mapping[str, str]) -> bool:
    """Whether an image, by what it says of itself, has the layer of just this kit: then none is mounted."""
    return finishing.OURS in labels and labels.get("slipworks.version") == layer_tree.version()


def path_of(store: Store, platform: Platform, engine: str) -> Path:
    """Where it lies, or will: pure apart from reading this kit's own files."""
    return layer_mounts.path_of(store, _spec(), platform, squashed=engine == "apptainer")


def made(store: Store, platform: Platform, engine: str) -> Path:
    """The file or folder, made now if it is not there, as `layer_mounts.made` says.

    It is of this very kit where that runs from a layer, else of the store's layer.
    """
    spec = _spec()
    own = Path(spec.folder)
    put = None
    if Path(__file__).is_relative_to(own) and platform == Platform.host():

        def put(tree: Path) -> None:
            layer_mounts.copy(own, tree)

    return layer_mounts.made(store, spec, platform, squashed=engine == "apptainer", put=put)


def _spec() -> LayerSpec:
    return layers.load(NAME, bootstrap.host_distribution())
