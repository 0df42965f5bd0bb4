"""What a SIF file holds, by its own header: where its root file system lies, and the config of the image that
it was made of. No apptainer is needed to look.

After the header comes a table of what the file holds, in entries of a fixed size (github.com/apptainer/sif).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from msgspec import Struct

from containers.sif_header import HEADER, MAGIC
from kit.errors import InvalidFileError

_DESCRIPTOR = struct.Struct("<i?IIIqqqqqqq128s384s")  # kind, used, …, offset, size, …, name, extra
_PARTITION, _SQUASHFS, _PRIMARY = 0x4004, 1, 2
_JSON, _CONFIG = 0x4006, b"oci-config.json"

_ARCHS = {b"02": "amd64", b"04": "arm64"}


class Root(Struct, frozen=True):
    """offset: of the squashfs, in bytes. arch: OCI's word; None for one that we know nothing of."""

    offset: int
    arch: str | None


def root(path: Path) -> Root:
    """The partition that a container starts from. InvalidFileError where there is none."""
    for each in _parts(path):
        if found := _root(each):
            return found
    raise InvalidFileError(f"{path} holds no squashfs to start from: an encrypted or an empty SIF file")


def config(path: Path) -> dict[str, Any]:
    """What the image that it was made of says of itself (variables, labels, user, entrypoint), as apptainer
    keeps it beside the files; empty where it was made of no image."""
    for each in _parts(path):
        fields = _DESCRIPTOR.unpack(each)
        if fields[1] and fields[0] == _JSON and fields[-2].rstrip(b"\0") == _CONFIG:
            try:
                with path.open("rb") as file:
                    file.seek(fields[5])
                    return dict(json.loads(file.read(fields[6])) or {})
            except (OSError, ValueError, TypeError) as bad:
                raise InvalidFileError(f"cannot read the image's config in {path}: {bad}") from bad
    return {}


def _parts(path: Path) -> Iterator[bytes]:
    """The entries of its table."""
    try:
        with path.open("rb") as file:
            raw = file.read(HEADER.size)
            if len(raw) < HEADER.size or (head := HEADER.unpack(raw))[1] != MAGIC:
                raise InvalidFileError(f"{path} is no SIF file")
            total, start = head[8], head[9]
            for number in range(total):
                file.seek(start + number * _DESCRIPTOR.size)
                entry = file.read(_DESCRIPTOR.size)
                if len(entry) < _DESCRIPTOR.size:
                    raise InvalidFileError(f"cannot read {path} as a SIF file: its table is cut short")
                yield entry
    except (OSError, struct.error) as bad:
        raise InvalidFileError(f"cannot read {path} as a SIF file: {bad}") from bad


def _root(raw: bytes) -> Root | None:
    fields = _DESCRIPTOR.unpack(raw)
    kind, used, offset, extra = fields[0], fields[1], fields[5], fields[-1]
    system, part = struct.unpack_from("<ii", extra)
    if used and kind == _PARTITION and system == _SQUASHFS and part == _PRIMARY:
        return Root(int(offset), _ARCHS.get(extra[8:10]))
    return None
