"""From an arch's name to an image that an engine has: composes definitions, containers and image_cache.

`planned` is pure but for what the store already knows; `make` acts.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from msgspec import Struct

from containers import bootstrap, engine, layer, secrets
from containers.engine import Engine
from definitions import archs, bases, layers, recipes
from image_cache.ensure import ensure
from image_cache.oci import Artifact
from image_cache.store import Store
from kit import files, say, settings
from kit.errors import DriftError, NotFoundError, UnsupportedError
from kit.nouns import Base, Format, Image, LayerSpec, Platform, Recipe, key_of


class Wanted(Struct, frozen=True, kw_only=True):
    """What a user asks for; None: the arch's own default."""

    arch: str
    line: str | None = None
    base: str | None = None
    platform: str | None = None


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
    ground, target, host = _ground(wanted), _target(wanted), Platform.host()
    made = {at: store().find(base_key(ground, at), "oci") for at in {target, host}} if _local(ground) else {}
    return _recipe(wanted, {at: image.digest for at, image in made.items() if image})


def _recipe(wanted: Wanted, base_digests: dict[Platform, str]) -> Recipe:
    target = _target(wanted)
    return recipes.recipe(
        wanted.arch,
        line=wanted.line,
        base=wanted.base,
        platform=target,
        distribution=_distribution(),
        base_digest=base_digests.get(target),
        build_base_digest=base_digests.get(Platform.host()),
        layer_key=layer.key(_runner_layer(), target),
        torch_index_set=_torch_index() is not None,
    )


def _ground(wanted: Wanted) -> Base:
    return bases.load(wanted.base or archs.load(wanted.arch).base, _distribution())


def _target(wanted: Wanted) -> Platform:
    there = archs.load(wanted.arch).all_platforms()
    if wanted.platform:
        return Platform.parse(wanted.platform)
    return Platform.host() if Platform.host() in there else there[0]


def _local(base: Base) -> bool:
    return base.kind == "bootstrap"


def _distribution() -> str:
    """Whose packages bootstrapped bases and layers are made of: this host's, where it has apt."""
    return bootstrap.host_distribution() or "debian"


def _runner_layer() -> LayerSpec:
    return layers.load("slipworks", _distribution())


def base_key(base: Base, platform: Platform) -> str:
    """The key of a bootstrapped base: what is asked of mmdebstrap. What came out is its digest."""
    asked = (base.name, base.distribution, base.suite, *base.packages)
    return key_of({"base": " ".join(asked), "platform": str(platform)})


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

    Idempotent; concurrent calls for one key build once. `to_run`: the engine must be able to run it too.
    """
    wanted = Wanted(arch=arch, line=line, base=base, platform=platform)
    chosen = _engine(engine, format, to_run)
    kind = format or chosen.formats[0]
    recipe = planned(wanted)
    image = store().find(recipe.key, kind)
    if image is None:
        recipe, image = _built(wanted, chosen, kind)
    if push:
        return Made(image, _pushed(image, push), chosen, recipe)
    if kind == "sif":
        return Made(image, str(image.path), chosen, recipe)
    reference = f"localhost/slipworks/{recipe.arch}:{recipe.line}-{recipe.platform.arch}-{recipe.key[:12]}"
    chosen.load(image, reference)
    return Made(image, reference, chosen, recipe)


def _engine(name: str | None, format: Format | None, to_run: bool) -> Engine:
    name = name or settings.load().settings.engine
    export = store().write_docker_archive
    if name is None:
        return engine.detect(format, to_run=to_run, export=export)
    chosen = engine.get(name, export)
    if format and format not in chosen.formats:
        able = [each for each in engine.names() if format in engine.get(each, export).formats]
        raise UnsupportedError(
            f"{name} does not make the format {format!r}: it makes {', '.join(chosen.formats)}",
            f"ENGINE={able[0]}" if able else None,
        )
    chosen.check()
    return chosen


def _built(wanted: Wanted, chosen: Engine, kind: Format) -> tuple[Recipe, Image]:
    """Makes the base and the layer where they are missing, then the image."""
    planned(wanted)  # refuses what cannot be built before anything is made
    made: dict[Platform, Image] = {}
    if _local(ground := _ground(wanted)):
        # A foreign image needs the host's own twin too: the stage that installs runs on it.
        made = {at: _bootstrapped(ground, at) for at in sorted({_target(wanted), Platform.host()})}
    recipe = _recipe(wanted, {at: image.digest for at, image in made.items()})
    appended = layer_artifact(_runner_layer(), recipe.platform)
    references = {bases.at(ground, at, image.digest).reference: image for at, image in made.items()}

    def build() -> Image:
        with files.beside(store().root / recipe.name) as out, secrets.gathered(_torch_index()) as found:
            order = engine.Build(
                recipe=recipe,
                out=out,
                secrets=found,
                base=references.pop(recipe.base.reference, None),
                more_bases=references,
                layer=appended.path,
            )
            with say.step(f"building {recipe.name} with {chosen.name}") as update:
                chosen.build(order, update)
            return _put(recipe, out, kind, appended)

    return recipe, ensure(store(), recipe.key, kind, build)


def _put(recipe: Recipe, out: Path, kind: Format, appended: Artifact) -> Image:
    if kind == "sif":
        return store().put_sif(
            out, key=recipe.key, name=recipe.name, platform=recipe.platform, labels=recipe.labels
        )
    return store().put_archive(
        out, key=recipe.key, name=recipe.name, platform=recipe.platform, labels=recipe.labels,
        append=[appended], env_path_append="/slipworks/bin",
    )  # fmt: skip


def _bootstrapped(base: Base, platform: Platform) -> Image:
    """The bootstrapped base of a platform, made now where the store has none."""
    key = base_key(base, platform)
    name = f"base-{base.distribution}-{base.suite}-{platform.arch}-{key[:12]}"

    def build() -> Image:
        with files.beside(store().root / name) as out:
            with say.step(f"bootstrapping {base.distribution} {base.suite} for {platform}") as update:
                bootstrap.root(base, platform, out, update)
            return store().put_root(out, key=key, name=name, platform=platform)

    return ensure(store(), key, "oci", build)


def layer_artifact(spec: LayerSpec, platform: Platform) -> Artifact:
    """A self-contained layer's blob in the store, built now where the store has none."""
    key = layer.key(spec, platform)
    found = store().artifact(key)
    if found is not None:
        return found
    with files.beside(store().root / f"{spec.name}.tar.gz") as out:
        with say.step(f"building the layer {spec.name} for {platform}") as update:
            built = layer.build(spec, platform, out, update)
        return store().put_artifact(key, out, diff_id=built.diff_id)


def _torch_index() -> str | None:
    return settings.load().settings.torch_index


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


def described(text: str) -> object:
    """All that the store knows of the one image whose name, key or digest begins with `text`."""
    found = [
        each
        for each in store().list()
        if each.name.startswith(text)
        or each.key.startswith(text)
        or each.digest.removeprefix("sha256:").startswith(text.removeprefix("sha256:"))
    ]
    if len(found) != 1:
        say_which = ", ".join(each.name for each in found) or "none"
        raise NotFoundError(
            f"{text!r} names {len(found)} images in the store: {say_which}", "runner image list"
        )
    return store().show(found[0])
