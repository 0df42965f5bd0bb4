"""Where in a SIF file its root file system lies, by the file's own header: no apptainer is needed to look.

After the header comes a table of what the file holds, in entries of a fixed size (github.com/apptainer/sif).
"""

from __future__ import annotations

import struct
from pathlib import Path

from msgspec import Struct

from containers.sif_header import HEADER, MAGIC
from kit.errors import InvalidFileError

_DESCRIPTOR = struct.Struct("<i?IIIqqqqqqq128s384s")  # kind, used, …, offset, size, …, name, extra
_PARTITION, _SQUASHFS, _PRIMARY = 0x4004, 1, 2


_ARCHS = {b"02": "amd64", b"04": "arm64"}


class Root(Struct, frozen=True):
    """offset: of the squashfs, in bytes. arch: OCI's word; None for one that we know nothing of."""

    offset: int
    arch: str | None


def root(path: Path) -> Root:
    """The partition that a container starts from. InvalidFileError where there is none."""
    try:
        with path.open("rb") as file:
            raw = file.read(HEADER.size)
            if len(raw) < HEADER.size or (head := HEADER.unpack(raw))[1] != MAGIC:
                raise InvalidFileError(f"{path} is no SIF file")
            total, start = head[8], head[9]
            for number in range(total):
                file.seek(start + number * _DESCRIPTOR.size)
                if found := _root(file.read(_DESCRIPTOR.size)):
                    return found
    except (OSError, struct.error) as bad:
        raise InvalidFileError(f"cannot read {path} as a SIF file: {bad}") from bad
    raise InvalidFileError(f"{path} holds no squashfs to start from: an encrypted or an empty SIF file")


def _root(raw: bytes) -> Root | None:
    fields = _DESCRIPTOR.unpack(raw)
    kind, used, offset, extra = fields[0], fields[1], fields[5], fields[-1]
    system, part = struct.unpack_from("<ii", extra)
    if used and kind == _PARTITION and system == _SQUASHFS and part == _PRIMARY:
        return Root(int(offset), _ARCHS.get(extra[8:10]))
    return None
