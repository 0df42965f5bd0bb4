"""What is known of an image: its record where there is one, and what is damaged or does not fit."""

from __future__ import annotations

from pathlib import Path

from msgspec import DecodeError, Struct, json, structs

from image_cache.store import Store
from kit.errors import HashMismatchError, InvalidFileError, NotFoundError
from kit.nouns import Image, digest
from runner import record
from runner.record import ImageRecord, Proof

DAMAGED_BILL = "the bill of materials is damaged"


class Known(Struct, frozen=True, kw_only=True):
    """All of it. recorded: False where `record` is only what the image says of itself.

    bill   the bill of materials; None: there is none, or not the one that the record names
    since  when it was put in this store
    wrong  what is damaged, lost, or does not fit: one sentence each
    """

    image: Image
    record: ImageRecord
    recorded: bool
    bill: bytes | None = None
    since: str | None = None
    wrong: tuple[str, ...] = ()


def of(store: Store, image: Image) -> Known:
    """Raises nothing for what is damaged: it is told, and the rest is still there. Hashes no layer."""
    raw, bill, wrong = _beside(image) if image.format == "sif" else _noted(store, image)
    wrong += _damage(store, image)
    found = _decoded(raw, wrong)
    if found and (expected := _mismatch(found, image)):
        wrong.append(f"the record is of another image: {expected}")
        found = None
    if found and found.sif and not store.sif_path(found.name).is_file():
        wrong.append(f"{found.sif.file} is not in the store")
    put = store.records.get(image.key, image.format)
    known = _with_bill(image, found or _said(store, image), bool(found), bill, wrong)
    return structs.replace(known, since=put.created if put else None)


def add_sif(store: Store, image: Image, sif: Image, apptainer: str) -> None:
    """Tells an image's record of the SIF that is made of it, and puts record and bill beside that."""
    known = of(store, image)
    record.write(store, record.with_sif(known.record, sif, apptainer), known.bill, sif_to_come=True)


def add_proof(store: Store, image: Image, proof: Proof) -> None:
    """Tells an image's record of a proof that was made later. Without a record there is nothing to tell.

    Of a SIF the record beside it alone is told: the image that it was made of was not looked at.
    """
    known = of(store, image)
    if not known.recorded:
        return
    told = structs.replace(known.record, proof=proof)
    if image.format == "sif":
        record.beside_sif(image.path, told, known.bill)
    else:
        record.note(store, told, known.bill)


def of_file(path: str) -> Known:
    """Of a SIF that lies anywhere, by the files beside it. NotFoundError where there is no record."""
    file = Path(path)
    if not file.is_file():
        raise NotFoundError(f"{path!r} is not a file", "runner image list")
    wrong: list[str] = []
    found = _decoded(_content(record.beside(file, record.RECORD_ENDING)), wrong)
    if found is None or found.sif is None:
        why = wrong[0] if wrong else f"{record.beside(file, record.RECORD_ENDING)} is not there"
        raise NotFoundError(f"nothing is known of {path}: {why}", "copy both .json files with the SIF")
    if file.stat().st_size != found.sif.size:
        wrong.append(f"{path} has {file.stat().st_size} bytes of {found.sif.size}")
    image = Image(
        key=found.key, name=found.name, format="sif", platform=found.platform, digest=found.sif.digest,
        path=file, labels={},
    )  # fmt: skip
    return _with_bill(image, found, True, _content(record.beside(file, record.BILL_ENDING)), wrong)


def _with_bill(
    image: Image, found: ImageRecord, recorded: bool, bill: bytes | None, wrong: list[str]
) -> Known:
    if bill is not None and found.sbom not in (None, digest(bill)):
        wrong.append(f"the bill of materials is another one: found {digest(bill)}, expected {found.sbom}")
        bill = None
    elif bill is None and recorded and DAMAGED_BILL not in wrong:
        wrong.append("the bill of materials is lost")
    return Known(image=image, record=found, recorded=recorded, bill=bill, wrong=tuple(wrong))


def _noted(store: Store, image: Image) -> tuple[bytes | None, bytes | None, list[str]]:
    raw, bill = store.note(image.digest, record.RECORD), store.note(image.digest, record.BILL)
    wrong = []
    if raw is None and store.notes.path(image.digest, record.RECORD).exists():
        wrong.append("the record is damaged")
    if bill is None and store.notes.path(image.digest, record.BILL).exists():
        wrong.append(DAMAGED_BILL)
    return raw, bill, wrong


def _beside(image: Image) -> tuple[bytes | None, bytes | None, list[str]]:
    raw, bill = (
        _content(record.beside(image.path, end)) for end in (record.RECORD_ENDING, record.BILL_ENDING)
    )
    return raw, bill, []


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _decoded(raw: bytes | None, wrong: list[str]) -> ImageRecord | None:
    try:
        return json.decode(raw, type=ImageRecord) if raw is not None else None
    except DecodeError as bad:
        wrong.append(f"the record cannot be read: {bad}")
        return None


def _mismatch(found: ImageRecord, image: Image) -> str | None:
    address = found.digest if image.format == "oci" else found.sif and found.sif.digest
    if address != image.digest:
        return f"found {address}, expected {image.digest}"
    stated = image.labels.get("slipworks.key", found.key)
    return None if stated == found.key else f"found the key {found.key}, the image says {stated}"


def _said(store: Store, image: Image) -> ImageRecord:
    try:
        return record.of_labels(store, image)
    except (InvalidFileError, HashMismatchError):  # told by `_damage`
        return ImageRecord(name=image.name, key=image.key, platform=image.platform, digest=image.digest)


def _damage(store: Store, image: Image) -> list[str]:
    """Of the files themselves: those that are gone or have another size."""
    if image.format == "sif":
        return [] if image.path.is_file() else [f"{image.path} is not there"]
    try:
        manifest = store.opened(image)[0]
    except (InvalidFileError, HashMismatchError, OSError) as bad:
        return [getattr(bad, "message", str(bad))]
    return [f"layer {each.digest} is lost or cut short" for each in manifest.layers if not store.has(each)]
