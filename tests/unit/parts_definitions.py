"""Recipes without an engine and without a network."""

from __future__ import annotations

from definitions import archs, recipes
from kit.nouns import Platform, Recipe, StackLayer, key_of

AMD, ARM = Platform("amd64"), Platform("arm64")
ONE, TWO = "sha256:" + "1" * 64, "sha256:" + "2" * 64


def stack_key(layer: StackLayer) -> str:
    return key_of({"group": layer.group.lock, "platform": str(layer.platform), "python": layer.python})


def recipe(arch: str | archs.Arch, **more: object) -> Recipe:
    given = {"layer_key": "a-layer", "stack_key": stack_key, "host": AMD, **more}
    return recipes.recipe(arch, **given)  # type: ignore[arg-type]
