"""One record an image: what ties its addresses together, found again, and told when it is damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import pytest
from msgspec.structs import replace

from containers.contents import Facts
from containers.findings import Finding, Report
from containers.inventory import Inventory
from definitions import layers
from image_cache.store import Store
from kit.errors import EXIT_CODES
from kit.nouns import Base, Group, Image, Platform, Recipe, StackLayer, Wheel, digest
from runner import cli, images, known, record, shown, tables
from tests.unit.parts_images import tar_of

ARM64 = Platform(arch="arm64")
LOCK = "torch==2.13.0 \\\n    --hash=sha256:" + "1" * 64 + "\n"
STATUS = b"Package: libc6\nStatus: install ok installed\nArchitecture: arm64\nVersion: 2.41-12\n"
GCC = STATUS + b"\nPackage: gcc\nStatus: install ok unpacked\nArchitecture: arm64\nVersion: 4:14.2.0-1\n"
WHEEL = Wheel("causal-conv1d", "1.6.2", "causal_conv1d-1.6.2-cp313-cp313-linux_aarch64.whl", "4" * 64)
REPORT = Report(
    platform="linux/arm64",
    findings=(
        Finding(check="platforms", status="ok", subject="934 files", found="aarch64"),
        Finding(check="platforms", status="excepted", subject="machine", found="x86_64", where="opt/a.so",
                expected="debugpy's helper"),
    ),
)  # fmt: skip
AT = "2026-11-21T03:00:00+00:00"


def recipe(base: Image) -> Recipe:
    on = Base(
        name="bootstrap", kind="bootstrap", reference="localhost/slipworks/base:trixie", digest=base.digest,
        python="3.13", interpreter="/usr/bin/python3.13", distribution="debian", suite="trixie",
    )  # fmt: skip
    rest = StackLayer(
        group=Group(name="rest", lock=LOCK, wheels=(WHEEL,)), platform=ARM64, python="3.13",
        interpreter="/usr/bin/python3.13", glibc="2.35",
    )  # fmt: skip
    return Recipe(
        arch="gh200", line="cu13", platform=ARM64, python="3.13", base=on, system=("gcc",), stack=(rest,),
        containerfile="", apptainer_def="", context={}, inputs={"a": "b"}, compute_capabilities=("9.0",),
        driver_floor="580", extensions=("flash-attn",),
        labels={"slipworks.lock": digest(LOCK.encode()), "slipworks.arch": "gh200", "slipworks.line": "cu13"},
    )  # fmt: skip


class Shop(NamedTuple):
    store: Store
    recipe: Recipe
    image: Image
    bill: bytes
    record: record.ImageRecord


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """The user's store, with an image that was assembled and recorded."""
    monkeypatch.setenv("SLIPWORKS_CACHE", str(tmp_path / "it's a cache"))
    return made(tmp_path, GCC)


def made(folder: Path, system_status: bytes) -> Shop:
    store = images.store()
    (folder / "base.tar").write_bytes(tar_of({"lib/dpkg/status": STATUS}, "var"))
    base = store.put_root(folder / "base.tar", key="1" * 64, name="base", platform=ARM64)
    upper = [
        store.put_tar("2" * 64, [tar_of({"lib/dpkg/status": system_status}, "var")], name="system"),
        store.put_tar("3" * 64, [tar_of({"a": b"a"}, "opt/stack")], name="stack rest"),
        store.put_tar("4" * 64, [tar_of({"a": b"a"})], name="slipworks"),
    ]
    store.put_note(upper[-1].diff_id, record.TAKEN, json.dumps({"libc6": "9 sha256:" + "9" * 64}).encode())
    planned = recipe(base)
    bill = record.sbom_of(planned, layers.load("slipworks"), store, on=base, upper=upper)
    proof = record.proof_of(REPORT, AT)
    labels = {**planned.labels, **record.labels(bill, proof)}
    image = store.put_on(base, upper, key=planned.key, name=planned.name, labels=labels)
    steps = [("building stack rest", 12.345)]
    written = record.of(planned, image, store, bill=bill, proof=proof, steps=steps)
    record.write(store, written, bill)
    return Shop(store, planned, image, bill, written)


def told(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    capsys.readouterr()
    assert cli.main(["image", "show", *argv]) == 0
    return capsys.readouterr().out


def test_what_was_written_is_found(shop: Shop) -> None:
    found = known.of(shop.store, shop.image)
    assert (found.record, found.bill, found.wrong, found.recorded) == (shop.record, shop.bill, (), True)
    assert found.record.sbom == digest(shop.bill) == shop.image.labels["slipworks.sbom"]
    assert shop.image.labels["slipworks.verified"] == "passed"
    assert found.record.base == record.Ground(
        reference="localhost/slipworks/base:trixie", digest=shop.recipe.base.digest
    )
    assert [each.name for each in found.record.layers] == ["base", "system", "stack rest", "slipworks"]
    assert [each.digest for each in found.record.layers] == [
        each.digest for each in shop.store.opened(shop.image)[0].layers
    ]


def test_the_image_is_the_same_each_time(shop: Shop, tmp_path: Path) -> None:
    """Times are in the record alone."""
    again = tmp_path / "again"
    again.mkdir()
    assert made(again, GCC).image.digest == shop.image.digest


def test_what_is_in_the_bill(shop: Shop) -> None:
    """The packages that the system layer adds, and what the runner's layer was really made of."""
    components = {each["name"]: each for each in json.loads(shop.bill)["components"]}
    assert components.keys() == {
        "localhost/slipworks/base",
        "libc6",
        "gcc",
        "torch",
        "causal-conv1d",
        "slipworks",
    }
    (own,) = (each for each in components["slipworks"]["components"] if each["purl"].startswith("pkg:deb/"))
    assert own["version"] == "9" and components["libc6"]["version"] == "2.41-12"
    assert "unlisted" not in shop.bill.decode()


def test_a_bill_that_lacks_something_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIPWORKS_CACHE", str(tmp_path / "cache"))
    properties = json.loads(made(tmp_path, STATUS).bill)["metadata"]["component"]["properties"]
    assert {"name": "slipworks:unlisted-packages", "value": "gcc"} in properties


def test_licenses_come_from_the_packages_themselves() -> None:
    site = "opt/stack/lib/python3.13/site-packages"
    own, vendored = (
        f"{site}/torch-2.13.0.dist-info/METADATA",
        f"{site}/setuptools/_vendor/a-1.dist-info/METADATA",
    )
    facts = {
        own: Facts(text="Name: torch\n"),
        vendored: Facts(text="Name: a\n"),
        f"{site}/x": Facts(text="#!"),
    }
    assert list(record.metadata_of([Inventory(1, (), facts)])) == ["Name: torch\n"]


def test_a_failed_proof(shop: Shop) -> None:
    bad = Finding(check="torch", status="failed", subject="torch", found="a CPU build", expected="CUDA 13.0")
    proof = record.proof_of(replace(REPORT, findings=(*REPORT.findings, bad)), AT)
    assert (proof.passed, proof.failures) == (False, ("torch: torch: a CPU build, expected CUDA 13.0",))
    assert proof.exceptions == ("platforms: opt/a.so: machine: x86_64: debugpy's helper",)
    assert proof.counts == {"ok": 1, "excepted": 1, "failed": 1}
    assert record.labels(b"", proof)["slipworks.verified"] == "failed"
    known.add_proof(shop.store, shop.image, proof)
    again = known.of(shop.store, shop.image)
    assert again.record.proof == proof and again.record.built == shop.record.built and again.bill == shop.bill


TEXT = """\
{name}
  key       {key}
  digest    {digest}
  platform  linux/arm64
  arch      gh200 (compute capability 9.0)
  driver    580 or newer
"""


def test_the_text(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    out = told(capsys, shop.image.name)
    image = shop.image
    assert out.startswith(TEXT.format(name=image.name, key=image.key, digest=image.digest))
    for line in (
        f"  digest     {shop.recipe.base.digest}",
        f"  lock        {digest(LOCK.encode())}",
        "  extensions  causal-conv1d 1.6.2",
        "  left out    flash-attn",
        "  result     passed",
        f"  at         {AT}",
        "  exception  platforms: opt/a.so: machine: x86_64: debugpy's helper",
        f"  digest      {digest(shop.bill)}",
        "  components  2 deb, 1 oci, 1 other, 2 pypi",
        "SIF\n  none was made",
        "  building stack rest      12.3 s",
    ):
        assert f"{line}\n" in out
    assert "wrong" not in out and shown.NOT not in out


def test_whole_labels_and_bill(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    whole = json.loads(told(capsys, shop.image.digest, "--json"))
    assert whole["record"]["steps"] == [{"name": "building stack rest", "seconds": 12.3}]
    assert whole["record"]["layers"][0]["size"] > 0 and whole["recorded"] and whole["wrong"] == []
    assert told(capsys, shop.image.key, "--sbom").encode() == shop.bill
    lines = told(capsys, shop.image.name, "--labels").splitlines()
    assert lines == [f"{name}={value}" for name, value in sorted(shop.image.labels.items())]


def test_on_a_terminal_nothing_is_lost(
    shop: Shop, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    found = shown.sections(known.of(shop.store, shop.image))
    tables._draw_sections(found, shown.style)
    drawn = "".join(capsys.readouterr().out.split())
    for title, rows in found:
        assert title.replace(" ", "") in drawn
        assert all(name.replace(" ", "") in drawn for name, _ in rows)
    assert "debugpy'shelper" in drawn


def with_sif(shop: Shop, content: bytes = b"a sif") -> Image:
    file = shop.store.root / "made.sif"
    file.write_bytes(content)
    sif = shop.store.put_sif(
        file, key=shop.image.key, name=shop.image.name, platform=ARM64, labels=shop.image.labels
    )
    known.add_sif(shop.store, shop.image, sif, "1.4.5")
    return sif


def test_a_sif_shares_the_record(shop: Shop) -> None:
    sif = with_sif(shop)
    for image in (sif, shop.image):
        found = known.of(shop.store, image)
        assert found.record.digest == shop.image.digest and found.wrong == () and found.bill == shop.bill
        assert found.record.sif == record.Sif(
            file=sif.path.name, digest=sif.digest, size=5, apptainer="1.4.5", made_of="image"
        )
    assert {each.name for each in sif.path.parent.iterdir()} == {
        sif.path.name, f"{sif.path.name}.json", f"{sif.path.name}.cdx.json"
    }  # fmt: skip


def test_a_sif_that_was_copied_away(shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sif = with_sif(shop)
    away = tmp_path / "on a cluster"
    away.mkdir()
    for each in sif.path.parent.iterdir():
        (away / each.name).write_bytes(each.read_bytes())
    copy = away / sif.path.name
    out = told(capsys, str(copy))
    assert (
        f"  digest    {shop.image.digest}\n" in out and "converted from the image, by apptainer 1.4.5" in out
    )
    assert "wrong" not in out and told(capsys, str(copy), "--sbom").encode() == shop.bill
    copy.write_bytes(b"a")
    assert f"wrong\n  {copy} has 1 bytes of 5\n" in told(capsys, str(copy))
    copy.with_name(copy.name + ".json").unlink()
    assert cli.main(["image", "show", str(copy)]) == EXIT_CODES["NotFoundError"]
    assert "copy both .json files with the SIF" in capsys.readouterr().err


def test_a_sif_of_a_definition(shop: Shop) -> None:
    """There is no image: the record is beside the SIF alone."""
    file = shop.store.root / "made.sif"
    file.write_bytes(b"sif")
    sif = shop.store.put_sif(file, key="f" * 64, name="defined", platform=ARM64)
    planned = replace(shop.recipe, inputs={"by": "definition"})
    made_of = record.of(planned, sif, shop.store, bill=shop.bill)
    written = replace(record.with_sif(made_of, sif, "1.4.5"), name="defined")
    record.write(shop.store, written, shop.bill)
    found = known.of(shop.store, sif)
    assert found.record.sif and found.record.sif.made_of == "definition" and not found.record.layers
    assert ("digest", "none: a SIF alone") in shown.sections(found)[0][1]


def test_a_sif_that_was_replaced(shop: Shop) -> None:
    sif = with_sif(shop)
    text = record.beside(sif.path, record.RECORD_ENDING).read_bytes()
    other = shop.store.root / "other.sif"
    other.write_bytes(b"other")
    sif = shop.store.put_sif(other, key=shop.image.key, name=shop.image.name, platform=ARM64)
    record.beside(sif.path, record.RECORD_ENDING).write_bytes(text)
    found = known.of(shop.store, sif)
    assert not found.recorded and "the record is of another image" in found.wrong[0]


def wrong(shop: Shop) -> tuple[str, ...]:
    return known.of(shop.store, shop.image).wrong


def test_damage_is_told_and_the_rest_is_there(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    store, image = shop.store, shop.image
    store.notes.path(image.digest, record.BILL).write_bytes(b"x")
    assert wrong(shop) == ("the bill of materials is damaged",)
    store.put_note(image.digest, record.BILL, shop.bill + b" ")
    (one,) = wrong(shop)
    assert one.startswith("the bill of materials is another one: found sha256:")
    store.notes.path(image.digest, record.BILL).unlink()
    assert wrong(shop) == ("the bill of materials is lost",)
    assert cli.main(["image", "show", image.name, "--sbom"]) == EXIT_CODES["NotFoundError"]
    assert "the bill of materials is lost" in capsys.readouterr().err
    layer = shop.record.layers[2].digest
    store.blob(layer).write_bytes(b"")
    out = told(capsys, image.name)
    assert out.endswith(f"wrong\n  layer {layer} is lost or cut short\n  the bill of materials is lost\n")
    assert "  result     passed\n" in out
    store.notes.path(image.digest, record.RECORD).write_bytes(b"x")
    assert "the record is damaged" in wrong(shop)
    store.put_note(image.digest, record.RECORD, b'{"name": 1}')
    assert any(each.startswith("the record cannot be read: ") for each in wrong(shop))
    store.blob(image.digest).write_bytes(b"")
    assert f"  key       {image.key}\n" in told(capsys, image.name)


def test_an_image_without_a_record(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    """A pulled one, or an older one: what it says of itself, and `not recorded` for the rest."""
    for kind in (record.RECORD, record.BILL):
        shop.store.notes.path(shop.image.digest, kind).unlink()
    found = known.of(shop.store, shop.image)
    assert not found.recorded and found.wrong == ()
    out = told(capsys, shop.image.name)
    for line in (
        "  arch      gh200", "  built     not recorded", "base\n  not recorded", "  line        cu13",
        f"  lock        {digest(LOCK.encode())}", "  result  passed\n  at      not recorded",
        f"  digest  {digest(shop.bill)}", "SIF\n  not recorded",
    ):  # fmt: skip
        assert f"{line}\n" in out
    assert [each.name for each in found.record.layers] == ["base", "system", "stack rest", "slipworks"]


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, "0 B"), (999, "999 B"), (1500, "2 kB"), (9_100_000_000, "9.1 GB"), (2 * 10**12, "2.0 TB")],
)
def test_sizes(count: int, expected: str) -> None:
    assert shown.size(count) == expected
