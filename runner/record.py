"""What is known of an image: one record that ties its addresses, its bill of materials and its proof.

    notes of the image's digest, `record` and `sbom`   of an image in the store
    <name>.sif.json, <name>.sif.cdx.json               beside a SIF, wherever it is copied

Labels hold what follows from the image's content alone; times are in the record only, for they would change
the digest. All that is written is a whole file; what cannot be read is told, and the rest is still there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct, json, structs

from image_cache import oci
from image_cache.oci import Artifact
from image_cache.store import Store
from kit import files
from kit.nouns import Image, LayerSpec, Platform, Recipe, Wheel, digest

if TYPE_CHECKING:
    from containers import sbom
    from containers.findings import Finding, Report
    from containers.inventory import Inventory

RECORD, BILL, TAKEN = "record", "sbom", "packages"  # kinds of notes
RECORD_ENDING, BILL_ENDING = ".json", ".cdx.json"  # after the SIF's whole name
DPKG, SYSTEM = "var/lib/dpkg/status", "system"  # the file, and the layer above the base that may hold it


class Ground(Struct, frozen=True, kw_only=True):
    """What an image stands on."""

    reference: str
    digest: str | None = None


class Layer(Struct, frozen=True, kw_only=True):
    """One layer as it lies there, compressed; sizes in bytes."""

    name: str
    digest: str
    size: int
    diff_id: str


class Sif(Struct, frozen=True, kw_only=True):
    """The image as one file. made_of: "image" (converted from it) or "definition" (built from the text)."""

    file: str
    digest: str
    size: int
    apptainer: str
    made_of: str


class Proof(Struct, frozen=True, kw_only=True):
    """What `verify` found. at: None where only the image's label tells of it.

    counts      of findings, by their status
    exceptions  what is let pass, with the reason; failures: what is not. A line each
    """

    passed: bool
    at: str | None = None
    counts: dict[str, int] = {}
    exceptions: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()


class Step(Struct, frozen=True):
    """A part of the build, and how long it took."""

    name: str
    seconds: float


class ImageRecord(Struct, frozen=True, kw_only=True):
    """Of one image. None: not known. Digests are `sha256:…`; times are UTC.

    key         over all that went in; digest: what came out, of the manifest. None for a SIF built from text
    kit         the version of this kit that made it
    lock, sbom  digests of the stack's lock and of the bill of materials
    extensions, missing  packages that the line asks for and that have no published wheels: in it, and not
    built       when the last of it was made; steps: what that took, without layers that were there already
    """

    name: str
    key: str
    platform: Platform
    arch: str | None = None
    line: str | None = None
    python: str | None = None
    kit: str | None = None
    base: Ground | None = None
    digest: str | None = None
    layers: tuple[Layer, ...] = ()
    lock: str | None = None
    sbom: str | None = None
    compute_capabilities: tuple[str, ...] = ()
    driver_floor: str | None = None
    extensions: tuple[Wheel, ...] = ()
    missing: tuple[str, ...] = ()
    proof: Proof | None = None
    sif: Sif | None = None
    built: str | None = None
    steps: tuple[Step, ...] = ()
    schema: int = 1


def sbom_of(
    recipe: Recipe, own: LayerSpec, store: Store, *, on: Image | None, upper: Iterable[Artifact] = (),
    metadata: Iterable[str] = (),
) -> bytes:  # fmt: skip
    """The bill of materials of what a recipe makes.

    on        the base, in the store; None for a SIF built from text on one that only apptainer pulls
    upper     the image's other layers: of distribution packages, and the runner's own
    metadata  texts of the stack's METADATA files, which state licences
    """
    from containers import sbom
    from image_cache import unpacking

    upper = tuple(upper)
    below = store.opened(on)[0].layers if on else ()
    system = [each.descriptor for each in upper if each.name == SYSTEM]
    status = (unpacking.file(store, [*below, *system], DPKG) or b"").decode(errors="replace")
    taken = [store.note(each.diff_id, TAKEN) for each in upper if each.name == own.name]
    said = {"arch": recipe.arch, "line": recipe.line, "python": recipe.python}
    # Said, not hidden: an incomplete bill would pass for a whole one.
    if unlisted := set(recipe.system) - {each.name for each in sbom.installed_packages(status)}:
        said["unlisted-packages"] = " ".join(sorted(unlisted))
    contents = sbom.Contents(
        name=recipe.name, key=recipe.key, platform=recipe.platform, base=recipe.base,
        locks=tuple(each.group.lock for each in recipe.stack), status=status,
        wheels=recipe.wheels, missing=recipe.extensions, licenses=sbom.licenses(metadata),
        layers=(_own(own, recipe.platform, *taken),), labels=said,
    )  # fmt: skip
    return sbom.bill(contents)


def metadata_of(inventories: Iterable[Inventory]) -> Iterator[str]:
    """The METADATA texts of an image's packages; not those that a package has vendored."""
    for each in inventories:
        for path, facts in each.facts.items():
            if facts.text and re.fullmatch(r"(?:.*/)?site-packages/[^/]+\.dist-info/METADATA", path):
                yield facts.text


def _own(spec: LayerSpec, platform: Platform, taken: bytes | None = None) -> sbom.OwnLayer:
    """The packages as noted when the layer was built; the pins where nothing was."""
    from containers import debs, layer_tree, sbom

    if taken is not None:
        noted = json.decode(taken, type=dict[str, str]).items()
        packages = tuple(debs.Deb(name, *told.split(" sha256:")) for name, told in sorted(noted))
    else:
        packages = tuple(debs.read_pins(spec.pins.get(platform.arch, ""), f"layer {spec.name}").values())
    return sbom.OwnLayer(
        name=spec.name, version=layer_tree.version(), lock=spec.locks.get(platform.arch, ""),
        distribution=spec.distribution, suite=spec.suite, packages=packages, base=spec.base,
    )  # fmt: skip


def proof_of(report: Report, at: str) -> Proof:
    """What is kept of a report. at: when it was made."""
    excepted = (each for each in report.findings if each.status == "excepted")
    return Proof(
        passed=not report.failed, at=at, counts=report.counts(),
        exceptions=tuple(f"{_told(each)}: {each.expected}" for each in excepted),
        failures=tuple(f"{_told(each)}, expected {each.expected}" for each in report.failed),
    )  # fmt: skip


def _told(finding: Finding) -> str:
    where = f"{finding.where}: " if finding.where else ""
    return f"{finding.check}: {where}{finding.subject}: {finding.found}"


def labels(bill: bytes, proof: Proof | None = None) -> dict[str, str]:
    """What an image says of itself beside its recipe's labels. Follows from its content, so digests stay."""
    from containers import layer_tree

    said = {} if proof is None else {"slipworks.verified": "passed" if proof.passed else "failed"}
    return {"slipworks.sbom": digest(bill), "slipworks.version": layer_tree.version(), **said}


def of(
    recipe: Recipe, image: Image, store: Store, *, bill: bytes, proof: Proof | None = None,
    steps: Iterable[tuple[str, float]] = (),
) -> ImageRecord:  # fmt: skip
    """The record of an image that was made now. steps: title and seconds."""
    from containers import layer_tree

    record = ImageRecord(
        name=recipe.name, key=recipe.key, platform=recipe.platform, arch=recipe.arch, line=recipe.line,
        python=recipe.python, kit=layer_tree.version(),
        base=Ground(reference=recipe.base.reference, digest=recipe.base.digest),
        lock=recipe.labels.get("slipworks.lock"), sbom=digest(bill),
        compute_capabilities=recipe.compute_capabilities, driver_floor=recipe.driver_floor,
        extensions=recipe.wheels, missing=recipe.extensions, proof=proof, built=now(),
        steps=tuple(Step(name, round(seconds, 1)) for name, seconds in steps),
    )  # fmt: skip
    if image.format == "sif":
        return record
    return structs.replace(record, digest=image.digest, layers=layers(store, image))


def with_sif(record: ImageRecord, sif: Image, apptainer: str) -> ImageRecord:
    """The record with the SIF that was made of its image, or of its recipe's text."""
    made = Sif(
        file=f"{sif.name}.sif", digest=sif.digest, size=sif.path.stat().st_size, apptainer=apptainer,
        made_of="image" if record.digest else "definition",
    )  # fmt: skip
    return structs.replace(record, sif=made)


def write(store: Store, record: ImageRecord, bill: bytes | None, *, sif_to_come: bool = False) -> None:
    """Puts both where `known.of` looks: notes for an image, files beside the SIF where it has one.

    sif_to_come: beside where the SIF is about to be put.
    The record last: it names the bill. Atomic each; the last writer wins.
    """
    if record.digest:
        note(store, record, bill)
    if record.sif and (sif_to_come or store.sif_path(record.name).is_file()):
        beside_sif(store.sif_path(record.name), record, bill)


def note(store: Store, record: ImageRecord, bill: bytes | None) -> None:
    """Puts both as notes of an image's digest."""
    assert record.digest is not None
    if bill is not None:
        store.put_note(record.digest, BILL, bill)
    store.put_note(record.digest, RECORD, _text(record))


def beside_sif(path: Path, record: ImageRecord, bill: bytes | None) -> None:
    """Puts both beside a SIF, for whoever copies it to another machine."""
    if bill is not None:
        files.write(beside(path, BILL_ENDING), bill)
    files.write(beside(path, RECORD_ENDING), _text(record))


def beside(path: Path, ending: str) -> Path:
    """Where the record or the bill of a SIF lies."""
    return path.with_name(path.name + ending)


def _text(record: ImageRecord) -> bytes:
    return json.format(json.encode(record, enc_hook=str), indent=1) + b"\n"


def now() -> str:
    """The time, as records have it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def of_labels(store: Store, image: Image) -> ImageRecord:
    """What an image says of itself, where there is no record: pulled ones, and those of an older kit."""
    said = image.labels
    base, from_base = (said.get(f"org.opencontainers.image.base.{each}") for each in ("name", "digest"))
    return ImageRecord(
        name=image.name, key=said.get("slipworks.key", image.key), platform=image.platform,
        arch=said.get("slipworks.arch"), line=said.get("slipworks.line"), python=said.get("slipworks.python"),
        kit=said.get("slipworks.version"), lock=said.get("slipworks.lock"), sbom=said.get("slipworks.sbom"),
        base=Ground(reference=base, digest=from_base) if base else None,
        compute_capabilities=tuple(said.get("slipworks.compute-capabilities", "").split()),
        driver_floor=said.get("slipworks.driver-floor"),
        missing=tuple(said.get("slipworks.left-out-extensions", "").split()),
        proof=Proof(passed=verified == "passed") if (verified := said.get("slipworks.verified")) else None,
        digest=image.digest if image.format == "oci" else None,
        layers=layers(store, image) if image.format == "oci" else (),
    )  # fmt: skip


def layers(store: Store, image: Image) -> tuple[Layer, ...]:
    """An image's layers, lowest first, by the names that its history has for ours; others are the base."""
    manifest, config = store.opened(image)
    told = [one for one in config.get("history") or () if not one.get("empty_layer")]
    names = [_layer_name(str(one.get("created_by", ""))) for one in told]
    if len(names) != len(manifest.layers):
        names = ["not named" for _ in manifest.layers]
    ids = oci.diff_ids(config, image.name)
    return tuple(
        Layer(name=name, digest=blob.digest, size=blob.size, diff_id=diff_id)
        for name, blob, diff_id in zip(names, manifest.layers, ids, strict=True)
    )


def _layer_name(created_by: str) -> str:
    words = created_by.split()
    return " ".join(words[1:-1]) if words[:1] == ["slipworks"] and len(words) > 2 else "base"
