"""How a SIF is made of an image, short of Apptainer itself."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from msgspec import json

from containers import sif, sif_header, workplace
from kit import share
from kit.errors import (
    InvalidFileError,
    NoSpaceError,
)
from kit.nouns import Image, Platform, digest


def test_mksquashfs_gets_the_share_of_a_job_and_not_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(share, "cpus", lambda: 3)
    for limit, given in ((4 << 30, "1024M"), (100 << 20, "256M"), (1 << 40, "8192M")):
        monkeypatch.setattr(share, "memory", lambda limit=limit: limit)
        words = sif.squash().split()
        assert words[words.index("-mem") + 1] == given
        assert words[words.index("-processors") + 1] == "3"


def test_a_small_disk_is_refused_before_apptainer_begins(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("APPTAINER_TMPDIR", str(tmp_path / "scratch, a"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    making = sif.Making(what="convert x", source="x", cwd=tmp_path, epoch=0, packed=1 << 60)
    with pytest.raises(NoSpaceError, match=r"could not convert x: .* needed") as raised:
        sif.make(making, tmp_path / "sifs/x.sif", print)
    assert str(tmp_path) in raised.value.message
    assert raised.value.hint and raised.value.hint.endswith("runner image gc")
    assert not list((tmp_path / "sifs").iterdir())


def test_a_file_that_is_no_sif_is_left_alone(tmp_path: Path) -> None:
    for raw in (b"", b"short", bytes(200)):
        (tmp_path / "x").write_bytes(raw)
        sif_header.steady(tmp_path / "x", 1)
        assert (tmp_path / "x").read_bytes() == raw


def store_like(folder: Path, config: object, layers: object = ()) -> Image:
    """The files of an image as a store keeps them: as far as engines look at them."""
    blobs = folder / "blobs/sha256"
    blobs.mkdir(parents=True)

    def put(value: object) -> str:
        raw = json.encode(value)
        (blobs / digest(raw)[7:]).write_bytes(raw)
        return digest(raw)

    manifest = put({"config": {"digest": put(config)}, "layers": layers})
    return Image(key="0" * 64, name="x", format="oci", platform=Platform.host(), digest=manifest, path=folder)


@pytest.mark.parametrize(
    ("config", "seconds"),
    [
        ({}, 0),
        ({"created": "1970-01-01T00:00:00Z", "history": [{"created": "1970-01-01T00:00:10Z"}, {}]}, 10),
        ({"created": "2026-01-02T03:04:05.123456789Z"}, 1767323045),
        ({"created": "2026-01-02T04:04:05+01:00", "history": None}, 1767323045),
    ],
)
def test_the_newest_time_of_an_image(tmp_path: Path, config: object, seconds: int) -> None:
    image = store_like(tmp_path, config, [{"size": 3}, {"size": 4}])
    assert workplace.created(image) == seconds
    assert workplace.packed_size(image) == 7


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"{}", b'{"config": {"digest": "x"}}'])
def test_a_damaged_manifest_is_named(tmp_path: Path, damage: bytes) -> None:
    image = store_like(tmp_path, {})
    (tmp_path / "blobs" / image.digest.replace(":", "/")).write_bytes(damage)
    with pytest.raises(InvalidFileError, match="no readable manifest"):
        workplace.config_digest(image)
