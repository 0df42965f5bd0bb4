"""What a SIF file says it holds, by bytes that were written as its format has them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from containers import sif_header, sif_parts
from kit.errors import InvalidFileError

JSON, PARTITION = 0x4006, 0x4004


def sif(path: Path, *held: tuple[int, bytes, bytes, bytes], used: bool = True) -> Path:
    """A file of parts: kind, name, extra, bytes."""
    start = sif_header.HEADER.size
    at = start + len(held) * sif_parts._DESCRIPTOR.size
    table, body = b"", b""
    for kind, name, extra, raw in held:
        fields = (kind, used, 1, 1, 0, at + len(body), len(raw), len(raw), 0, 0, 0, 0, name, extra)
        table += sif_parts._DESCRIPTOR.pack(*fields)
        body += raw
    head: list[Any] = list(sif_header.HEADER.unpack(bytes(start)))
    head[1], head[8], head[9] = sif_header.MAGIC, len(held), start
    path.write_bytes(sif_header.HEADER.pack(*head) + table + body)
    return path


CONFIG = {"User": "worker", "Labels": {"a": "b"}}
METADATA = (JSON, b"inspect-metadata.json", b"", b'{"not": "it"}')


def test_the_config_of_the_image_is_beside_its_files(tmp_path: Path) -> None:
    own = (JSON, b"oci-config.json", b"", json.dumps(CONFIG).encode())
    assert sif_parts.config(sif(tmp_path / "a.sif", METADATA, own)) == CONFIG
    assert sif_parts.config(sif(tmp_path / "b.sif", METADATA)) == {}
    assert sif_parts.config(sif(tmp_path / "c.sif", METADATA, own, used=False)) == {}, "it was taken out"


def test_a_config_that_is_none_is_told_by_the_file(tmp_path: Path) -> None:
    for raw in (b"{", b"[1]"):
        with pytest.raises(InvalidFileError, match=r"config in .*a\.sif"):
            sif_parts.config(sif(tmp_path / "a.sif", (JSON, b"oci-config.json", b"", raw)))


def test_what_is_no_sif_or_ends_early_is_told_by_the_file(tmp_path: Path) -> None:
    whole = sif(tmp_path / "a.sif", METADATA).read_bytes()
    for raw, told in (
        (b"", "no SIF"),
        (b"x" * 999, "no SIF"),
        (whole[: sif_header.HEADER.size + 9], "cut short"),
    ):
        (tmp_path / "a.sif").write_bytes(raw)
        for ask in (sif_parts.config, sif_parts.root):
            with pytest.raises(InvalidFileError, match=rf"a\.sif.*{told}"):
                ask(tmp_path / "a.sif")
    with pytest.raises(InvalidFileError, match="no squashfs to start from"):
        sif_parts.root(sif(tmp_path / "b.sif", METADATA))
