"""From layers and files to images that are proved and recorded: nothing becomes an image before its proof."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from msgspec import structs

from image_cache.oci import Artifact
from image_cache.store import Store
from kit import say
from kit.nouns import Image, LayerSpec, Recipe, key_of
from runner import proof, record
from runner.proof import Proved

OURS = "slipworks.line"  # the label of images that this kit makes


def put_together(
    recipe: Recipe, own: LayerSpec, base: Image, layers: Iterable[Artifact], store: Store
) -> Image:
    """Puts the image of a recipe, with its record, once its proof has passed.

    What does not pass stays in the store as `unproved-<name>`, to be looked at, and is no hit for the
    recipe's key; VerifyError names the first finding. own: the spec of the runner's layer, the last one.
    Killed at any moment, a hit has its record: a digest does not depend on key or name, so all that is
    written of it is there before the key.
    """
    layers = tuple(layers)
    put = _Put(recipe, base, layers, store)
    draft = key_of({"draft of": recipe.key}), f"unproved-{recipe.name}"
    first = put(*draft, {})
    report, inventories = proved(first, store)
    passed = record.proof_of(report, record.now())
    bill = record.sbom_of(
        recipe, own, store, on=base, upper=[each for each in layers if not each.name.startswith("stack ")],
        metadata=record.metadata_of(inventories),
    )  # fmt: skip
    labels = record.labels(bill, passed)
    image = put(*draft, labels)
    proof.keep(store, image, report)
    kept = record.of(recipe, image, store, bill=bill, proof=passed, steps=say.taken())
    record.write(store, kept, bill)
    store.records.drop(draft[0], "oci")
    return put(recipe.key, recipe.name, labels)


class _Put:
    """Makes the image's config and manifest, which take milliseconds, under some key and name."""

    def __init__(self, recipe: Recipe, base: Image, layers: tuple[Artifact, ...], store: Store) -> None:
        self.recipe, self.base, self.layers, self.store = recipe, base, layers, store

    def __call__(self, key: str, name: str, labels: dict[str, str]) -> Image:
        return self.store.put_on(
            self.base, self.layers, key=key, name=name, labels={**self.recipe.labels, **labels},
            env=self.recipe.environment, cmd=("python",),
        )  # fmt: skip


def proved(image: Image, store: Store, asked: Sequence[str] | None = ()) -> Proved:
    """The report on an image; VerifyError where anything is wrong with it. asked: see `proof.demand`."""
    with say.step(f"proving {image.name}") as update:
        found = proof.prove(store, image, update)
    proof.demand(found.report, image.name, asked)
    return found


def put_sif(out: Path, recipe: Recipe | Image, store: Store, tell: Callable[[Image, Proved], None]) -> Image:
    """Takes a finished SIF over once its proof has passed. recipe: an image, or what was asked for.

    tell: writes what is known of the SIF, before the put, so that a hit has its record.
    An image that this kit did not make need not be what ours must be: what is found of it is told.
    """
    made = structs.replace(proof.file_image(out), key=recipe.key, name=recipe.name, labels=recipe.labels)
    if OURS in recipe.labels:
        # What fails is gone, so the hint is of what it was made of.
        of = (recipe.name, "--format", "oci") if isinstance(recipe, Image) else None
        found = proved(structs.replace(made, name=f"{made.name}.sif"), store, of)
    else:
        found = _looked_at(made, store)
    tell(made, found)
    return store.put_sif(
        out, key=recipe.key, name=recipe.name, platform=recipe.platform, labels=recipe.labels,
        digest=made.digest,
    )  # fmt: skip


def _looked_at(sif: Image, store: Store) -> Proved:
    """Proves what need not pass, and tells in one line what was found."""
    with say.step(f"proving {sif.name}.sif") as update:
        found = proof.prove(store, sif, update)
    if (report := found.report).failed:
        first, more = report.failed[0], len(report.failed) - 1
        told = f"{first.check}: {first.subject} {first.found}" + (f", and {more} more" if more else "")
        verify = f"runner image verify {sif.name} --format sif"
        say.say(f"note: {sif.name}.sif is not an image of this kit, and {told}: {verify}")
    return found


def record_defined(
    recipe: Recipe, own: LayerSpec, sif: Image, found: Proved, apptainer: str, store: Store
) -> None:
    """Puts record and bill of materials beside where a SIF that was built by its definition will lie."""
    passed = record.proof_of(found.report, record.now())
    bill = record.sbom_of(recipe, own, store, on=None, metadata=record.metadata_of(found.inventories))
    kept = record.of(recipe, sif, store, bill=bill, proof=passed, steps=say.taken())
    record.write(store, record.with_sif(kept, sif, apptainer), bill, sif_to_come=True)
