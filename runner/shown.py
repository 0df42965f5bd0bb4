"""What is known of an image, for people: sections of short lines, or everything as JSON."""

from __future__ import annotations

from msgspec import DecodeError, json

from containers import sbom
from runner.known import Known
from runner.record import ImageRecord
from runner.tables import Rows, Section

NOT = "not recorded"


def whole(known: Known) -> str:
    """Everything but the bill itself, as JSON."""
    table = {
        "image": known.image, "since": known.since, "recorded": known.recorded, "record": known.record,
        "components": _components(known), "wrong": known.wrong,
    }  # fmt: skip
    return json.format(json.encode(table, enc_hook=str)).decode()


def sections(known: Known) -> list[Section]:
    """Title and rows of each. Pure."""
    record = known.record
    found = [(record.name, _image(known)), ("base", _base(record))]
    if record.layers:
        found.append(
            ("layers", [(each.name, f"{size(each.size):>8}  {each.digest}") for each in record.layers])
        )
    found += [
        ("stack", _stack(record)),
        ("proof", _proof(record)),
        ("bill of materials", _bill(known)),
        ("SIF", _sif(known)),
    ]
    if record.steps:
        found.append(("time", [(each.name, f"{each.seconds:8.1f} s") for each in record.steps]))
    if known.wrong:
        found.append(("wrong", [("", each) for each in known.wrong]))
    return found


def _image(known: Known) -> Rows:
    record = known.record
    capabilities = ", ".join(record.compute_capabilities)
    total = sum(each.size for each in record.layers)
    return [
        ("key", record.key),
        ("digest", record.digest or ("none: a SIF alone" if known.recorded else NOT)),
        ("platform", str(record.platform)),
        ("arch", _or(record.arch) + (f" (compute capability {capabilities})" if capabilities else "")),
        ("driver", f"{record.driver_floor} or newer" if record.driver_floor else _unless_gpu(record)),
        *([("size", size(total))] if record.layers else []),
        ("built", _or(record.built)),
        *([("in store", f"since {known.since}")] if known.since else []),
        ("by", f"slipworks {record.kit}" if record.kit else NOT),
    ]


def _unless_gpu(record: ImageRecord) -> str:
    return "none needed" if record.line and not record.compute_capabilities else NOT


def _base(record: ImageRecord) -> Rows:
    if record.base is None:
        return [("", NOT)]
    return [("reference", record.base.reference), ("digest", _or(record.base.digest))]


def _stack(record: ImageRecord) -> Rows:
    nothing = "none" if record.line else NOT
    return [
        ("line", _or(record.line)),
        ("python", _or(record.python)),
        ("lock", _or(record.lock)),
        ("extensions", ", ".join(f"{each.name} {each.version}" for each in record.extensions) or nothing),
        ("left out", ", ".join(record.missing) or nothing),
    ]


def _proof(record: ImageRecord) -> Rows:
    if record.proof is None:
        return [("", NOT)]
    proof = record.proof
    rows = [("result", "passed" if proof.passed else "FAILED"), ("at", _or(proof.at))]
    rows += [(name, str(count)) for name, count in proof.counts.items()]
    rows += [("failure", each) for each in proof.failures]
    return rows + [("exception", each) for each in proof.exceptions]


def _bill(known: Known) -> Rows:
    counts = ", ".join(f"{count} {kind}" for kind, count in _components(known).items())
    return [("digest", _or(known.record.sbom)), *([("components", counts)] if counts else [])]


def _components(known: Known) -> dict[str, int]:
    try:
        return dict(sorted(sbom.packages_in(known.bill or b"{}").items()))
    except DecodeError:
        return {}


def _sif(known: Known) -> Rows:
    made = known.record.sif
    if made is None:
        return [("", "none was made" if known.recorded else NOT)]
    how = "converted from the image" if made.made_of == "image" else "built from the definition"
    return [
        ("file", made.file),
        ("digest", made.digest),
        ("size", size(made.size)),
        ("made", f"{how}, by apptainer {made.apptainer}"),
    ]


def _or(value: str | None) -> str:
    return value or NOT


def size(count: int) -> str:
    """Bytes in the unit that reads best: `9.1 GB`."""
    number = float(count)
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.0f} {unit}"
        number /= 1000
    return f"{number:.1f} GB" if number < 1000 else f"{number / 1000:.1f} TB"


def style(title: str, value: str) -> str:
    """How a value looks on a terminal."""
    return "red" if title == "wrong" or value == "FAILED" else "dim" if value == NOT else ""
