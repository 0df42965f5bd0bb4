"""From an arch's name to an image that an engine has: finds it, or lets `building` make it."""

from __future__ import annotations

from typing import NamedTuple

from containers import engine as engines
from containers.engine import Engine
from image_cache.store import Store
from kit import say, settings
from kit.errors import DriftError, InvalidFileError, NotFoundError, UnsupportedError
from kit.nouns import Format, Image, Recipe
from runner import planning
from runner.planning import Wanted


class Made(NamedTuple):
    """An image that can be used: `reference` is what `engine` knows it by, or a SIF's path."""

    image: Image
    reference: str
    engine: Engine
    recipe: Recipe


def store() -> Store:
    """The image store of this user's settings."""
    return Store(settings.load().settings.cache_folder / "images")


def planned(wanted: Wanted) -> Recipe:
    """The recipe that `make` would build. A bootstrapped base that was made before counts by its digest."""
    return planning.plan(wanted, store()).recipe()


def make(
    arch: str,
    *,
    line: str | None = None,
    base: str | None = None,
    platform: str | None = None,
    engine: str | None = None,
    format: Format | None = None,
    push: str | None = None,
    to_run: bool = False,
) -> Made:
    """Builds the image or finds it, makes it known to the engine, and pushes it where asked.

    A SIF is made by apptainer: from the definition, or from the image that another engine (named) has built.
    Idempotent; concurrent calls for one key build once. `to_run`: the engine must be able to run it too.
    """
    chosen = check(engine, format, push, to_run)
    kind = format or chosen.formats[0]
    plan = planning.plan(Wanted(arch=arch, line=line, base=base, platform=platform), store())
    recipe = plan.recipe()
    image = store().find(recipe.key, kind)
    if image is None:
        from runner import building

        build = building.sif if kind == "sif" else building.oci
        recipe, image = build(plan, store(), chosen)
    if push is not None:
        return Made(image, _pushed(image, push), chosen, recipe)
    reference = reference_of(recipe, chosen, kind)
    if kind == "oci":
        chosen.load(image, reference)
    return Made(image, reference, chosen, recipe)


def reference_of(recipe: Recipe, builder: Engine, kind: Format | None = None) -> str:
    """What the engine will know the image by once it is made: a local name, or a SIF's path."""
    if (kind or builder.formats[0]) == "sif":
        return str(store().sif_path(recipe.name))
    return f"localhost/slipworks/{recipe.arch}:{recipe.line}-{recipe.platform.arch}-{recipe.key[:12]}"


def check(engine: str | None, format: Format | None, push: str | None, to_run: bool = False) -> Engine:
    """The engine that will be used. Refuses what cannot end well before anything is made."""
    chosen = _engine(engine, format, to_run)
    if push is None:
        return chosen
    if (format or chosen.formats[0]) == "sif":
        raise UnsupportedError(
            "a SIF is a file, and is not pushed", "FORMAT=oci, with podman, docker or buildah"
        )
    from image_cache.references import Reference

    if Reference.parse(push).digest:
        raise InvalidFileError(f"cannot push to {push}: expected a tag, found a digest", "PUSH=host/name:tag")
    return chosen


def _engine(name: str | None, format: Format | None, to_run: bool) -> Engine:
    name = name or settings.load().settings.engine
    export = store().write_docker_archive
    if name is None:
        return engines.detect(format, to_run=to_run, export=export)
    chosen = engines.get(name, export)
    if to_run and not chosen.runs:
        raise UnsupportedError(f"{name} builds images and runs none", "ENGINE=podman, docker or apptainer")
    chosen.check()
    if format == "oci" and format not in chosen.formats:
        raise UnsupportedError(
            f"{name} does not make OCI images: it makes {', '.join(chosen.formats)}",
            "ENGINE=podman FORMAT=oci",
        )
    if format == "sif" and format not in chosen.formats:
        engines.get("apptainer").check()
    return chosen


def _pushed(image: Image, reference: str) -> str:
    from image_cache import transfer

    with say.step(f"pushing {image.name} to {reference}") as update:
        digest = transfer.push(store(), image, reference, update)
    return f"{reference.rpartition('@')[0] or reference}@{digest}"


def render(*, check: bool) -> None:
    """Writes the committed definitions of all archs and tells which changed; DriftError if one would."""
    from definitions import render as rendering

    if not check:
        for path in rendering.write():
            say.answer(str(path))
    elif differences := rendering.drift():
        raise DriftError("definitions/rendered: " + "; ".join(differences), "make render")


def described(text: str, format: Format | None = None) -> object:
    """All that the store knows of the one image whose name, key or digest begins with `text`."""
    bare = text.removeprefix("sha256:")
    found = [
        each
        for each in store().list()
        if format in (None, each.format)
        if each.name.startswith(text)
        or each.key.startswith(text)
        or each.digest.removeprefix("sha256:").startswith(bare)
    ]
    if len(found) != 1:
        names = ", ".join(f"{each.name} ({each.format})" for each in found) or "none"
        same = len({each.name for each in found}) == 1
        hint = f"runner image show {text} --format oci" if same else "runner image list"
        raise NotFoundError(f"{text!r} names {len(found)} images in the store: {names}", hint)
    return store().show(found[0])
