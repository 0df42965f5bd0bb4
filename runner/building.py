"""Makes what was planned and the store lacks: base, layers, image, SIF. Each once, and whole.

An image is put together from layers that programs of this machine make: nothing of the target platform runs,
so an image for a foreign platform is made the same way and as fast, and no engine and no root is needed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path

from msgspec import json

from containers import apt_lists, bootstrap, inventory, layer, secrets, stack, system
from containers.engines.apptainer import Apptainer
from definitions import bases
from image_cache import streams, transfer, unpacking
from image_cache.blobs import Look
from image_cache.ensure import ensure, ensure_artifact, once_only
from image_cache.oci import Artifact
from image_cache.store import Store
from kit import files, lanes, say, settings, share
from kit.lanes import Lanes
from kit.nouns import Base, Image, LayerBuild, LayerSpec, Platform, Recipe, StackLayer, digest_file, key_of
from runner import compiling, finishing, known, planning, proof, record, scratch
from runner.compiling import Folder, Python
from runner.planning import Plan


def oci(plan: Plan, store: Store) -> tuple[Recipe, Image]:
    """The image: its base, and on it the layers of system, stack and runner."""
    settings.writable("cache")
    plan.recipe()  # refuses what cannot be built before anything is made
    with contextlib.ExitStack() as stays:
        stays.enter_context(apt_lists.one_state())
        with lanes.opened(share.cpus()) as beside:
            plan, base, made = _parts(plan, store, stays, beside)
    recipe = plan.recipe()
    image = ensure(
        store, recipe.key, "oci", lambda: finishing.put_together(recipe, plan.layer, base, made, store)
    )
    return recipe, image


def _parts(
    plan: Plan, store: Store, stays: contextlib.ExitStack, beside: Lanes
) -> tuple[Plan, Image, list[Artifact]]:
    """The plan, which knows its base and packages now; the base; the layers on it, lowest first.

    The stack's layers are made beside the others, as soon as there is who compiles them.
    """
    fits = compiling.fits(plan.layer, plan.ground)
    python = compiling.of_layer(plan.layer, store, stays) if fits else None
    stack = _stack_begun(plan, python, store, beside) if python else None
    base = _base(plan.ground, plan.target, store, python)
    if plan.ground.kind == "bootstrap":
        plan = plan.with_base(base)
    target = native = _unpacked(lambda: base, store, stays)
    if plan.target != Platform.host():
        native = _unpacked(lambda: _base(plan.ground, Platform.host(), store), store, stays)
    if stack is None:
        own = compiling.of_folder(native, plan.ground.interpreter)
        stack = _stack_begun(plan, own, store, beside)
    beside.look()
    layers = []
    if packages := plan.recipe().system:
        plan = plan.with_system(made := _system(plan, packages, target, store, native))
        layers.append(made)
    beside.look()
    runners = layer_artifact(plan.layer, plan.target, store)
    return plan, base, [*layers, *beside.results(stack), runners]


def _base(ground: Base, platform: Platform, store: Store, python: Python | None = None) -> Image:
    if ground.kind == "bootstrap":
        return bootstrapped(ground, platform, store, python)
    reference = bases.pinned(ground)
    with say.step(f"pulling {ground.name} for {platform}") as update:
        return transfer.pull(reference, platform, store, update)


def bootstrapped(base: Base, platform: Platform, store: Store, python: Python | None = None) -> Image:
    """The bootstrapped base of a platform, made now where the store has none. python: of `bootstrap.root`."""
    key = planning.base_key(base, platform)
    name = f"base-{base.distribution}-{base.suite}-{platform.arch}-{key[:12]}"

    def build() -> Image:
        compiler = python() if python else None
        with files.beside(store.root / name) as out:
            with say.step(f"bootstrapping {base.distribution} {base.suite} for {platform}") as update:
                bootstrap.root(base, platform, out, update, compiler)
            return store.put_root(out, key=key, name=name, platform=platform)

    return ensure(store, key, "oci", build)


def _unpacked(image: Callable[[], Image], store: Store, stays: contextlib.ExitStack) -> Folder:
    """An image's files."""

    def unpack(root: Path) -> None:
        found = image()
        with say.step(f"unpacking {found.name}"):
            unpacking.unpack(store, found, root)

    return Folder(unpack, store, stays)


def _system(
    plan: Plan, packages: tuple[str, ...], target: Folder, store: Store, native: Folder | None = None
) -> Artifact:
    """`native`: the base for this machine; its apt does the work where this machine has none of that kind."""
    key = planning.system_key(plan, packages)
    lent = None if bootstrap.host_distribution() == plan.ground.distribution else native

    def build() -> Artifact:
        with files.beside(store.root / f"system-{key[:12]}.tar") as out:
            root = target.root()
            with say.step(
                f"taking {len(packages)} packages of {plan.ground.suite} for {plan.target}"
            ) as update:
                apt_of = lent.root() if lent else None
                system.build(root, plan.ground, packages, plan.target, out, update, apt_of)
            with out.open("rb") as file:
                return store.put_tar(key, streams.pieces(file), name="system")

    return ensure_artifact(store, key, build)


def _stack_begun(plan: Plan, python: Python, store: Store, beside: Lanes) -> list[Future[Artifact]]:
    """Begins to make all that the store lacks, by a Python that the main thread has by then: an interruption
    ends what that does at once."""
    specs = plan.recipe().stack
    if any(each.group.whole is None and not store.artifact(planning.stack_key(each)) for each in specs):
        python()
    return [beside.begin(partial(_stack, each, python, store, beside)) for each in specs]


def _stack(spec: StackLayer, python: Python, store: Store, beside: Lanes) -> Artifact:
    key = planning.stack_key(spec)
    name = f"stack {spec.group.name}"

    def build() -> Artifact:
        wheels = settings.load().settings.cache_folder / "wheels"
        told = say.step(f"building {name} for {spec.platform}")
        with scratch.folder(store, "build-") as work, told as update:
            index = settings.load().settings.torch_index
            tar = stack.tar(spec, python, work, update, wheelhouse=wheels, torch_index=index)
            pieces = beside.wanted(tar)
            return _read_while_put(store, work, lambda look: store.put_tar(key, look(pieces), name=name))

    return ensure_artifact(store, key, build, sleep=beside.pause)


def _read_while_put(store: Store, work: Path, put: Callable[[Look], Artifact]) -> Artifact:
    """Puts a layer with its inventory: to read it again for the proof would take as long."""
    found: list[inventory.Inventory] = []
    made = put(lambda pieces: inventory.beside(pieces, work, found.append))
    store.put_note(made.diff_id, proof.NOTE, inventory.encode(found[0]))
    return made


def sif(plan: Plan, store: Store) -> tuple[Recipe, Image]:
    """The image as a SIF: converted from the assembled image, or built by apptainer from the definition."""
    settings.writable("cache")
    if plan.wanted.defined:
        return _defined(plan, store)
    recipe, image = oci(plan, store)
    return recipe, converted(image, store)


def converted(image: Image, store: Store) -> Image:
    """The SIF of an image of the store, of any platform: nothing of it is run."""
    apptainer = Apptainer()
    version = apptainer.check()

    def build() -> Image:
        with files.beside(store.root / f"{image.name}.sif") as out:
            with say.step(f"converting {image.name} to a SIF") as update:
                apptainer.convert(image, out, update)
            return finishing.put_sif(
                out, image, store, lambda made, _found: known.add_sif(store, image, made, version)
            )

    return ensure(store, image.key, "sif", build)


def _defined(plan: Plan, store: Store) -> tuple[Recipe, Image]:
    base = None
    if plan.ground.kind == "bootstrap":
        plan = plan.with_base(_base(plan.ground, plan.target, store))
        plan, base = _with_packages(plan, store)
    recipe = plan.recipe()
    appended = layer_artifact(plan.layer, recipe.platform, store)
    apptainer = Apptainer()
    version = apptainer.check()

    def build() -> Image:
        with files.beside(store.root / f"{recipe.name}.sif") as out:
            index = settings.load().settings.torch_index
            told = say.step(f"building {recipe.name} with apptainer")
            with secrets.gathered(index) as found, told as update:
                apptainer.define(recipe, out, update, secrets=found, base=base, layer=appended.path)
            return finishing.put_sif(
                out, recipe, store,
                lambda made, found: finishing.record_defined(
                    recipe, plan.layer, made, found, version, store
                ),
            )  # fmt: skip

    return recipe, ensure(store, recipe.key, "sif", build)


def _with_packages(plan: Plan, store: Store) -> tuple[Plan, Image]:
    """A base as the definition expects it: with the line's distribution packages."""
    assert plan.base is not None
    packages = plan.recipe().system
    if not packages:
        return plan, plan.base
    base = plan.base
    with contextlib.ExitStack() as stays:
        plan = plan.with_system(_system(plan, packages, _unpacked(lambda: base, store, stays), store))
    assert plan.system is not None
    key = key_of({"base": base.key, "system": plan.system.key})
    name = f"{base.name}-{plan.system.key[:12]}"
    return plan, store.put_on(base, [plan.system], key=key, name=name)


def layer_artifact(spec: LayerSpec, platform: Platform, store: Store) -> Artifact:
    """A self-contained layer's blob in the store, built now where the store has none.

    So is its body, also where its bytes are not what they were.
    """

    def make(out: Path) -> LayerBuild:
        with say.step(f"building the layer {spec.name} for {platform}") as update:
            return layer.build(spec, platform, out, update, _pulled_files(spec, store, update), keep)

    def keep(key: str, make: Callable[[Path], LayerBuild]) -> tuple[Path, dict[str, str]]:
        body = _noted(store, key, f"{spec.name}-body", make, whole=True)
        return body.path, json.decode(store.note(body.diff_id, record.TAKEN) or b"{}", type=dict[str, str])

    return _noted(store, layer.key(spec, platform), spec.name, make)


def _noted(
    store: Store, key: str, name: str, make: Callable[[Path], LayerBuild], *, whole: bool = False
) -> Artifact:
    """What was made of distribution packages, with a note that says which: without it, it is no hit, for its
    bill of materials could only be guessed. whole: nor is one whose bytes are not those of its digest."""

    def build() -> Artifact:
        with files.beside(store.root / f"{name}.tar.gz") as out, scratch.folder(store, "build-") as work:
            built = make(out)
            store.put_note(built.diff_id, record.TAKEN, json.encode(built.packages))  # before it is a hit
            put = partial(store.put_artifact, key, out, diff_id=built.diff_id, name=name)
            return _read_while_put(store, work, lambda look: put(look=look))

    def find() -> Artifact | None:
        found = _found(store, key)
        return found if found is None or not whole or digest_file(found.path) == found.digest else None

    return once_only(store, key, "layer", find, build)


def layer_found(spec: LayerSpec, platform: Platform, store: Store) -> Artifact | None:
    """The same where the store has it; builds nothing."""
    return _found(store, layer.key(spec, platform))


def _found(store: Store, key: str) -> Artifact | None:
    found = store.artifact(key)
    return found if found and store.note(found.diff_id, record.TAKEN) is not None else None


def _pulled_files(spec: LayerSpec, store: Store, update: Callable[[str], None]) -> layer.Files | None:
    """Where a layer is made of an image's files: what pulls and unpacks it. Nothing of the image is run."""
    return partial(_unpack_pulled, spec.base, store, update) if spec.base else None


def _unpack_pulled(
    reference: str, store: Store, update: Callable[[str], None], platform: Platform, root: Path
) -> None:
    unpacking.unpack(store, transfer.pull(reference, platform, store, update), root)
