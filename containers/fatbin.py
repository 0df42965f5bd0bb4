"""CUDA's fat binaries: which GPU code a library really carries, by the entries of its containers.

A fat binary is a header (magic, version, header size, size of all that follows it) and entries, each with a
header of its own: kind, sizes, the architecture as a number (90), flags. nvcc puts one a translation unit
into the section .nv_fatbin of a library; a .fatbin file is one alone. The layout is not documented; it was
read from files that `fatbinary` 13.0 made and from the wheels of torch, vLLM and NCCL, and agrees with what
`cuobjdump --list-elf --list-ptx` of CUDA 13.5 lists for them. (It lists SASS of sm_100f as sm_100.)

Only .nv_fatbin counts: __nv_relfatbin holds what nvlink read, which no driver is ever given.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator
from typing import BinaryIO, Literal

from msgspec import Struct

from kit.errors import InvalidFileError

SECTION = ".nv_fatbin"
MAGIC = struct.pack("<I", 0xBA55ED50)
_CONTAINER = struct.Struct("<IHHQ")  # magic, version, size of this header, size of all entries
_ENTRY = struct.Struct(
    "<HHIQIIIIIIQQQ"
)  # kind, version, header, payload, packed, …, arch, …, flags, …, plain
_KINDS: dict[int, Literal["ptx", "sass"]] = {1: "ptx", 2: "sass"}
_ONLY_THIS, _FAMILY = 0x100000, 0x200000  # the suffixes a and f
_LZ4, _ZSTD = 0x2000, 0x8000
_TEGRA = {53, 62, 72, 87}  # of boards: desktop GPUs of the same major version do not run their SASS
_HEADS = {"ptx": (b".version", b"//"), "sass": (b"\x7fELF",)}


class Code(Struct, frozen=True, order=True):
    """One piece of GPU code.

    kind    sass: machine code. ptx: text that the driver compiles. other: for tools (NVVM, LTO).
    arch    90 for sm_90 and compute_90.
    suffix  "a": for this architecture alone. "f": for its family. "": for newer ones too.
    packed  whether it is compressed (LZ4 before CUDA 13, zstd since).
    """

    kind: Literal["ptx", "sass", "other"]
    arch: int
    suffix: Literal["", "a", "f"] = ""
    packed: bool = False

    def __str__(self) -> str:
        prefix = "compute" if self.kind == "ptx" else "sm"
        return f"{prefix}_{self.arch}{self.suffix}"

    def runs_on(self, capability: str) -> bool:
        """Whether a GPU of this compute capability ("9.0") can run it, as SASS or compiled from PTX.

        SASS runs on its own architecture and on later ones of the same major version; with the suffix f on
        the same (that is what a family is); with the suffix a on its own only. PTX becomes any later one;
        with f those of its family, with a its own. (CUDA C++ programming guide, "compute capability")
        """
        wanted = int(capability.replace(".", ""))
        if self.kind == "other" or wanted < self.arch:
            return False
        if self.suffix == "a" or (self.kind == "sass" and self.arch in _TEGRA):
            return wanted == self.arch
        return self.arch // 10 == wanted // 10 or (self.kind == "ptx" and not self.suffix)


class Fat(Struct, frozen=True, order=True):
    """What a fat binary holds, and how many of a file's fat binaries hold just that."""

    codes: tuple[Code, ...]
    count: int


def read(stream: BinaryIO, start: int, size: int, where: str) -> tuple[Fat, ...]:
    """All fat binaries from `start` on, `size` bytes. InvalidFileError where the bytes are something else.

    Reads the headers, and the first payload of each kind and architecture: it must be what the header says.
    """
    found = Counter(_containers(stream, start, start + size, where, set()))
    return tuple(sorted(Fat(codes, count) for codes, count in found.items()))


def _containers(
    stream: BinaryIO, at: int, end: int, where: str, checked: set[Code]
) -> Iterator[tuple[Code, ...]]:
    while at + _CONTAINER.size <= end:
        stream.seek(at)
        head = stream.read(_CONTAINER.size)
        if not any(head[:8]):  # what the linker put between two, for their alignment
            at += 8
            continue
        magic, _version, own, entries = _CONTAINER.unpack(head)
        if head[:4] != MAGIC or own < _CONTAINER.size or at + own + entries > end:
            raise InvalidFileError(f"{where}: no fat binary at offset {at}: magic {magic:#x}")
        yield tuple(sorted(set(_entries(stream, at + own, at + own + entries, where, checked))))
        at += own + entries


def _entries(stream: BinaryIO, at: int, end: int, where: str, checked: set[Code]) -> Iterator[Code]:
    while at + _ENTRY.size <= end:
        stream.seek(at)
        fields = _ENTRY.unpack(stream.read(_ENTRY.size))
        number, _version, own, size, packed, arch, flags = *fields[:5], fields[7], fields[10]
        if own < _ENTRY.size or at + own + size > end:
            raise InvalidFileError(
                f"{where}: a broken fat binary: an entry at offset {at} ends beyond its end"
            )
        kind = _KINDS.get(number)
        suffix: Literal["", "a", "f"] = "a" if flags & _ONLY_THIS else "f" if flags & _FAMILY else ""
        code = Code(kind or "other", arch, suffix, bool(packed and flags & (_LZ4 | _ZSTD)))
        if kind and code not in checked:
            stream.seek(at + own)
            _check(stream.read(min(size, 2**18)), kind, flags, f"{where}: the {kind} entry at offset {at}")
            checked.add(code)
        yield code
        at += own + size


def _check(payload: bytes, kind: str, flags: int, where: str) -> None:
    """That the payload begins as its kind does, unpacked where need be."""
    begins = _HEADS[kind]
    if flags & _ZSTD:
        fine = _unpacked(payload, where).lstrip().startswith(begins)
    elif flags & _LZ4:  # a block without header: a token, more length bytes, then the first bytes as they are
        fine = any(begin in payload[:64] for begin in begins)
    else:
        fine = payload[:64].lstrip().startswith(begins)
    if not fine:
        raise InvalidFileError(f"{where} holds something else: {payload[:8].hex()}")


def _unpacked(payload: bytes, where: str) -> bytes:
    """The first bytes of a zstd frame, of which only the first blocks may be here."""
    import zstandard

    try:
        return zstandard.ZstdDecompressor().decompressobj().decompress(payload)[:64]
    except zstandard.ZstdError as bad:
        raise InvalidFileError(f"{where} is damaged: {bad}") from bad
