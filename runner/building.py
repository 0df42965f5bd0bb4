"""Makes what was planned and the store lacks: base, layer, plain image, image, SIF. Each once, and whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from containers import bootstrap, engine, layer, secrets
from containers.engine import Engine
from containers.engines.apptainer import Apptainer
from image_cache.ensure import ensure
from image_cache.oci import Artifact
from image_cache.store import Store
from kit import files, say, settings
from kit.nouns import Base, Image, LayerSpec, Platform, Recipe
from runner.planning import Plan, base_key


def oci(plan: Plan, store: Store, builder: Engine) -> tuple[Recipe, Image]:
    """The image: what the engine builds, and the runner's layer appended to its manifest."""
    settings.writable("cache")
    plan = _with_bases(plan, store)
    plain, recipe = plan.plain(), plan.recipe()
    # First, though it is needed last: where it cannot be made, nothing long has been done in vain.
    appended = layer_artifact(plan.layer, recipe.platform, store)

    def build() -> Image:
        with files.beside(store.root / plain.name) as out, secrets.gathered(_torch_index()) as found:
            local = plan.local_bases()
            base = local.pop(plain.base.reference, None)
            order = engine.Build(recipe=plain, out=out, secrets=found, base=base, more_bases=local)
            with say.step(f"building {plain.name} with {builder.name}") as update:
                builder.build(order, update)
            return store.put_archive(
                out, key=plain.key, name=f"plain-{plain.name}", platform=plain.platform, labels=plain.labels
            )

    below = ensure(store, plain.key, "oci", build)
    image = store.put_on(
        below, [appended], key=recipe.key, name=recipe.name, labels=recipe.labels,
        env_path=f"{plan.layer.folder}/bin",
    )  # fmt: skip
    return recipe, image


def sif(plan: Plan, store: Store, builder: Engine) -> tuple[Recipe, Image]:
    """The image as a SIF: by the Apptainer definition, or converted from what another engine builds."""
    settings.writable("cache")
    plan = _with_bases(plan, store)
    recipe = plan.recipe()

    def build() -> Image:
        with files.beside(store.root / f"{recipe.name}.sif") as out:
            if "sif" in builder.formats:
                _define(plan, recipe, store, builder, out)
            else:
                image = store.find(recipe.key, "oci") or oci(plan, store, builder)[1]
                with say.step(f"converting {recipe.name} to a SIF") as update:
                    Apptainer().convert(image, out, update)
            return store.put_sif(
                out, key=recipe.key, name=recipe.name, platform=recipe.platform, labels=recipe.labels
            )

    return recipe, ensure(store, recipe.key, "sif", build)


def _define(plan: Plan, recipe: Recipe, store: Store, builder: Engine, out: Path) -> None:
    appended = layer_artifact(plan.layer, recipe.platform, store)
    base = plan.local_bases().get(recipe.base.reference)
    with secrets.gathered(_torch_index()) as found:
        order = engine.Build(recipe=recipe, out=out, secrets=found, base=base, layer=appended.path)
        with say.step(f"building {recipe.name} with {builder.name}") as update:
            builder.build(order, update)


def _with_bases(plan: Plan, store: Store) -> Plan:
    plan.recipe()  # refuses what cannot be built before anything is made
    for platform in plan.missing:
        plan = plan.with_base(platform, bootstrapped(plan.ground, platform, store))
    return plan


def bootstrapped(base: Base, platform: Platform, store: Store) -> Image:
    """The bootstrapped base of a platform, made now where the store has none."""
    key = base_key(base, platform)
    name = f"base-{base.distribution}-{base.suite}-{platform.arch}-{key[:12]}"

    def build() -> Image:
        with files.beside(store.root / name) as out:
            with say.step(f"bootstrapping {base.distribution} {base.suite} for {platform}") as update:
                bootstrap.root(base, platform, out, update)
            return store.put_root(out, key=key, name=name, platform=platform)

    return ensure(store, key, "oci", build)


def layer_artifact(spec: LayerSpec, platform: Platform, store: Store) -> Artifact:
    """A self-contained layer's blob in the store, built now where the store has none.

    Two processes at once may both build it: they put the same bytes.
    """
    key = layer.key(spec, platform)
    found = store.artifact(key)
    if found is not None:
        return found
    with files.beside(store.root / f"{spec.name}.tar.gz") as out:
        with say.step(f"building the layer {spec.name} for {platform}") as update:
            built = layer.build(spec, platform, out, update, _pulled_files(spec, store, update))
        return store.put_artifact(key, out, diff_id=built.diff_id)


def _pulled_files(spec: LayerSpec, store: Store, update: Callable[[str], None]) -> layer.Files | None:
    """Where a layer is made of an image's files: what pulls and unpacks it. Nothing of the image is run."""
    if spec.base is None:
        return None
    reference = spec.base

    def files_of(platform: Platform, root: Path) -> None:
        from image_cache import transfer, unpacking

        unpacking.unpack(store, transfer.pull(reference, platform, store, update), root)

    return files_of


def _torch_index() -> str | None:
    return settings.load().settings.torch_index
