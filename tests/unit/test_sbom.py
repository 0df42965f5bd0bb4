"""Bills of materials: valid by the standard's own schema, whole, and the same bytes each time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from msgspec.structs import replace

from containers import debs, sbom
from definitions import layers, lines, lockfile
from kit.errors import MissingToolError
from kit.nouns import Base, Platform, Wheel

ARM64 = Platform(arch="arm64")
BASE = Base(
    name="python312", kind="registry", reference="docker.io/library/python:3.12-slim-bookworm",
    digest="sha256:" + "5" * 64, python="3.12", interpreter="/usr/local/bin/python3.12",
    distribution="debian", suite="bookworm",
)  # fmt: skip
STATUS = """\
Package: gcc
Status: install ok installed
Architecture: arm64
Source: gcc-defaults (1.203)
Version: 4:12.2.0-3
Description: GNU C compiler
 Version: no field, but a line of the description

Package: libc6
Status: install ok unpacked
Architecture: arm64
Source: glibc
Version: 2.36-9+deb12u13

Package: gone
Status: deinstall ok config-files
Architecture: arm64
Version: 1

Package: tini
Status: install ok installed
Architecture: arm64
Version: 0.19.0-1
"""
LOCKS = (
    "# a line\ntorch==2.8.0+cu128 \\\n    --hash=sha256:" + "1" * 64 + "\n",
    "numpy==2.3.0 \\\n    --hash=sha256:" + "2" * 64 + " \\\n    --hash=sha256:" + "3" * 64 + "\n",
)
WHEEL = Wheel("flash-attn", "2.8.3", "flash_attn-2.8.3-cp312-cp312-linux_aarch64.whl", "4" * 64)


def contents(**other: Any) -> sbom.Contents:
    spec = layers.load("slipworks", "debian")
    own = sbom.OwnLayer(
        name="slipworks", version="0.1.0", lock=spec.locks["arm64"], distribution="debian", suite="trixie",
        packages=tuple(debs.read_pins(spec.pins["arm64"], "pins").values()),
    )  # fmt: skip
    plain = sbom.Contents(
        name="gh200-cu13-arm64-0123456789ab", key="0123456789ab" + "0" * 52, platform=ARM64, base=BASE,
        locks=LOCKS, status=STATUS, wheels=(WHEEL,), missing=("causal-conv1d",), layers=(own,),
        licenses={"torch": "BSD-3-Clause", "numpy": "BSD-3-Clause AND MIT", "flash-attn": "as you like"},
        labels={"arch": "gh200"},
    )  # fmt: skip
    return replace(plain, **other)


def listed(raw: bytes) -> dict[str, dict[str, Any]]:
    """By package address; those inside the runner's own layer are not among them."""
    return {each["purl"]: each for each in json.loads(raw)["components"] if "purl" in each}


@pytest.fixture(scope="module")
def raw() -> bytes:
    return sbom.bill(contents())


@pytest.fixture(scope="module")
def validator() -> JsonStrictValidator:
    return JsonStrictValidator(SchemaVersion.V1_6)


def test_it_is_valid(raw: bytes, validator: JsonStrictValidator) -> None:
    assert validator.validate_str(raw.decode()) is None
    assert json.loads(raw)["specVersion"] == "1.6"
    assert validator.validate_str(raw.decode().replace('"library"', '"libary"')) is not None


def test_a_whole_stack(validator: JsonStrictValidator) -> None:
    """Every package of the lock, the CUDA libraries among them, with the lock's hashes."""
    lock = lines.load("cu13").lock(ARM64, "3.13").read_text()
    raw = sbom.bill(contents(locks=(lock,), wheels=()))
    assert validator.validate_str(raw.decode()) is None
    found = {each["name"]: each for each in listed(raw).values() if each["purl"].startswith("pkg:pypi/")}
    packages = lockfile.parse(lock, "lock").packages
    assert len(packages) > 300 and found.keys() == {each.name for each in packages}
    for each in packages:
        one = found[each.name]
        hashes = {hashed["content"] for hashed in one["hashes"] if hashed["alg"] == "SHA-256"}
        assert (one["version"], hashes) == (each.version, set(each.sha256))
    assert {"nvidia-nccl-cu13", "nvidia-cublas", "torch"} <= found.keys()


def test_addresses(raw: bytes) -> None:
    assert listed(raw).keys() == {
        "pkg:pypi/torch@2.8.0%2Bcu128",
        "pkg:pypi/numpy@2.3.0",
        f"pkg:pypi/flash-attn@2.8.3?file_name={WHEEL.file}",
        "pkg:deb/debian/gcc@4:12.2.0-3?arch=arm64&distro=bookworm&upstream=gcc-defaults%401.203",
        "pkg:deb/debian/libc6@2.36-9%2Bdeb12u13?arch=arm64&distro=bookworm&upstream=glibc",
        "pkg:deb/debian/tini@0.19.0-1?arch=arm64&distro=bookworm",
        f"pkg:oci/python@sha256:{'5' * 64}?arch=arm64"
        "&repository_url=docker.io/library/python&tag=3.12-slim-bookworm",
    }
    assert sbom.packages_in(raw) == {"pypi": 3, "deb": 3, "oci": 1, "other": 1}


def test_what_is_said_of_the_image(raw: bytes) -> None:
    image = json.loads(raw)["metadata"]["component"]
    said = {each["name"]: each["value"] for each in image["properties"]}
    assert image["name"] == "gh200-cu13-arm64-0123456789ab" and said == {
        "slipworks:key": "0123456789ab" + "0" * 52, "slipworks:platform": "linux/arm64",
        "slipworks:arch": "gh200", "slipworks:missing-extensions": "causal-conv1d",
    }  # fmt: skip


def test_licenses(raw: bytes) -> None:
    found = {each["name"]: each.get("licenses") for each in listed(raw).values()}
    assert found["torch"] == [{"license": {"id": "BSD-3-Clause"}}]
    assert found["numpy"][0]["expression"] == "BSD-3-Clause AND MIT"
    assert found["flash-attn"] == [{"license": {"name": "as you like"}}] and found["tini"] is None


def test_what_packages_state_of_their_license() -> None:
    classified = (
        "Name: c.d\nClassifier: License :: OSI Approved :: BSD License\nLicense: UNKNOWN\n\nLicense: no\n"
    )
    texts = [
        "Metadata-Version: 2.4\nName: A_b\nLicense-Expression: MIT\nLicense: other\n",
        classified,
        "Name: long\nLicense: The text\n        of a whole licence\n",
        "Name: short\nLicense: Apache 2.0\n",
        "no metadata at all",
    ]
    assert sbom.licenses(texts) == {"a-b": "MIT", "c-d": "BSD License", "short": "Apache 2.0"}


def test_the_runners_own_layer_is_a_part_of_its_own(raw: bytes) -> None:
    """The same package may be in the image and in the layer: both are listed, each at its place."""
    (own,) = (each for each in json.loads(raw)["components"] if each["bom-ref"] == "slipworks")
    inside = {each["purl"] for each in own["components"]}
    assert any(each.startswith("pkg:deb/debian/libc6@") for each in inside)
    assert any(each.startswith("pkg:pypi/msgspec@") for each in inside)


def test_the_same_bytes_in_whatever_order(raw: bytes) -> None:
    turned = "\n\n".join(reversed(STATUS.strip().split("\n\n")))
    assert sbom.bill(contents(locks=LOCKS[::-1], status=turned)) == raw


def test_the_same_bytes_in_another_process(raw: bytes) -> None:
    program = "import sys; from tests.unit.test_sbom import *; sys.stdout.buffer.write(sbom.bill(contents()))"
    root = Path(__file__).parents[2]
    env = {**os.environ, "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "PYTHONPATH": str(root)}
    told = subprocess.run([sys.executable, "-c", program], cwd=root, env=env, capture_output=True, check=True)
    assert told.stdout == raw


def test_other_contents_are_another_bill(raw: bytes) -> None:
    other = json.loads(sbom.bill(contents(missing=())))
    assert other["serialNumber"] != json.loads(raw)["serialNumber"]
    assert "timestamp" not in other["metadata"]


def test_the_library_is_asked_only_where_a_bill_is_made() -> None:
    """Showing one needs none of it; and it would cost every command a third of a second."""
    program = "import sys, runner.known, runner.shown; print([m for m in sys.modules if 'cyclonedx' in m])"
    root = Path(__file__).parents[2]
    told = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True
    )
    assert told.stdout == "[]\n"


def test_without_the_library_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the runner's layer, which shows bills and writes none."""
    monkeypatch.setitem(sys.modules, "cyclonedx.output.json", None)
    with pytest.raises(MissingToolError, match="cyclonedx"):
        sbom.bill(contents())


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("docker.io/library/python:3.12", ("docker.io/library/python", "3.12")),
        ("localhost:5000/a/b", ("localhost:5000/a/b", None)),
        ("localhost:5000/a/b:c@sha256:" + "0" * 64, ("localhost:5000/a/b", "c")),
    ],
)
def test_references(reference: str, expected: tuple[str, str | None]) -> None:
    assert sbom.split_reference(reference) == expected
