"""From an arch's name to an image that an engine has: finds it, or lets `building` make it."""

from __future__ import annotations

from typing import NamedTuple

from containers import engine as engines
from containers.engine import Engine
from kit import say, settings
from kit.errors import (
    DriftError,
    InvalidFileError,
    MissingToolError,
    NotFoundError,
    UnsupportedError,
    UsageError,
    VerifyError,
)
from kit.nouns import Format, Image, Platform, Recipe
from runner import planning
from runner.own_store import store as store
from runner.planning import Wanted


class Made(NamedTuple):
    """An image that can be used: `reference` is what `engine` knows it by, or a SIF's path, or, where no
    engine has it, `oci:<store>:<name>`, which podman, buildah and skopeo read."""

    image: Image
    reference: str
    engine: Engine | None
    recipe: Recipe


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
    defined: bool = False,
) -> Made:
    """Builds the image or finds it, makes it known to the engine, and pushes it where asked.

    A SIF is converted from the assembled image; `defined`: built by apptainer from the rendered definition.
    Idempotent; concurrent calls for one key build once. `to_run`: the engine must be able to run it too.
    """
    chosen = check(engine, format, push, to_run)
    kind = format or (chosen.formats[0] if chosen else "oci")
    wanted = Wanted(arch=arch, line=line, base=base, platform=platform, defined=defined and kind == "sif")
    plan = planning.plan(wanted, store())
    recipe = plan.recipe()
    image = store().find(recipe.key, kind)
    if image is None:
        from runner import building

        build = building.sif if kind == "sif" else building.oci
        recipe, image = build(plan, store())
    if push is not None:
        return Made(image, pushed(image, push), chosen, recipe)
    chosen = _keeper(chosen, image, engine)
    reference = reference_of(recipe, chosen, kind)
    if chosen and kind == "oci":
        chosen.load(image, reference)
    return Made(image, reference, chosen, recipe)


def _keeper(chosen: Engine | None, image: Image, named: str | None) -> Engine | None:
    """Who gets the image: nobody one that cannot run here, unless its engine was named."""
    if chosen and not named and image.format == "oci" and image.platform != Platform.host():
        say.once(f"note: {image.name} is for {image.platform}, so {chosen.name} is not given it")
        return None
    return chosen


def reference_of(recipe: Recipe, keeper: Engine | None, kind: Format | None = None) -> str:
    """What the image will be known by once it is made: see `Made`."""
    if kind == "sif" or (keeper and not kind and keeper.formats[0] == "sif"):
        return str(store().sif_path(recipe.name))
    if keeper is None:
        return f"oci:{store().root}:{recipe.name}"
    return f"localhost/slipworks/{recipe.arch}:{recipe.line}-{recipe.platform.arch}-{recipe.key[:12]}"


def runs(engine: str | None) -> Engine:
    """The engine that will run a job. MissingToolError or UnsupportedError where none can."""
    found = _engine(engine, None, to_run=True)
    assert found is not None  # where one must run, none is an error
    return found


def check(engine: str | None, format: Format | None, push: str | None, to_run: bool = False) -> Engine | None:
    """The engine that will get the image; None: nobody. Refuses early what cannot end well."""
    chosen = _engine(engine, format, to_run)
    if format == "sif" and (chosen is None or chosen.name != "apptainer"):
        engines.get("apptainer").check()
    if push is None:
        return chosen
    if (format or (chosen.formats[0] if chosen else "oci")) == "sif":
        raise UnsupportedError(
            "a SIF is a file, and is not pushed", "FORMAT=oci, with podman, docker or buildah"
        )
    from image_cache.references import Reference

    if Reference.parse(push).digest:
        raise InvalidFileError(f"cannot push to {push}: expected a tag, found a digest", "PUSH=host/name:tag")
    return chosen


NOBODY = "none"


def _engine(name: str | None, format: Format | None, to_run: bool) -> Engine | None:
    """Building needs no engine, so where none works an image stays in the store."""
    name = name or settings.load().settings.engine
    if name == NOBODY and not to_run:
        return None
    export = store().write_docker_archive
    if name is None or name == NOBODY:
        try:
            return engines.detect(format, to_run=to_run, export=export)
        except MissingToolError as none:
            if to_run:
                raise
            say.once(f"note: the image stays in the store: {none.message}")
            return None
    chosen = engines.get(name, export)
    if to_run and not chosen.runs:
        raise UnsupportedError(f"{name} keeps images and runs none", "ENGINE=podman, docker or apptainer")
    chosen.check()
    if format == "oci" and format not in chosen.formats:
        raise UnsupportedError(
            f"{name} does not take OCI images: it runs {', '.join(chosen.formats)}",
            "ENGINE=podman FORMAT=oci",
        )
    return chosen


def pushed(image: Image, reference: str) -> str:
    """Pushes it; returns the reference with its digest. VerifyError for one of ours that is not proved."""
    from image_cache import transfer
    from image_cache.references import Reference

    Reference.parse(reference)  # before anything is told of a push
    _demand_proof(image)
    with say.step(f"pushing {image.name} to {reference}") as update:
        digest = transfer.push(store(), image, reference, update)
    return f"{reference.rpartition('@')[0] or reference}@{digest}"


def _demand_proof(image: Image) -> None:
    """What an image of ours says of itself counts where there is no report of it here."""
    from runner import finishing, proof

    if finishing.OURS not in image.labels:
        return
    report = proof.known(store(), image)
    passed = not report.failed if report else image.labels.get("slipworks.verified") == "passed"
    if not passed:
        raise VerifyError(
            f"{image.name} is not pushed: no proof of it has passed", f"runner image verify {image.name}"
        )


def render(*, check: bool) -> None:
    """Writes the committed definitions of all archs and tells which changed; DriftError if one would."""
    from definitions import render as rendering

    if not check:
        for path in rendering.write():
            say.answer(str(path))
    elif differences := rendering.drift():
        raise DriftError("definitions/rendered: " + "; ".join(differences), "make render")


SHORTEST = 4  # characters of a name, key or digest that are not all of it


def named(text: str, format: Format | None = None) -> Image:
    """The one image of the store whose name, key or digest begins with `text`.

    A beginning has SHORTEST characters at least: nothing at all would name the only image of a store.
    """
    bare = text.removeprefix("sha256:")
    there = [each for each in store().list() if format in (None, each.format)]
    if len(bare) < SHORTEST and all(each.name != text for each in there):
        raise UsageError(
            f"{text!r} names no image: expected a whole name, or {SHORTEST} characters or more of a name, "
            "key or digest",
            "runner image list",
        )
    found = [
        each
        for each in there
        if each.name.startswith(text)
        or each.key.startswith(text)
        or each.digest.removeprefix("sha256:").startswith(bare)
    ]
    # A whole name is meant itself, though another may begin with it.
    found = [each for each in found if each.name == text] or found
    if len(found) != 1:
        names = ", ".join(f"{each.name} ({each.format})" for each in found) or "none"
        same = len({each.name for each in found}) == 1
        hint = f"runner image show {text} --format oci" if same else "runner image list"
        raise NotFoundError(f"{text!r} names {len(found)} images in the store: {names}", hint)
    return found[0]
