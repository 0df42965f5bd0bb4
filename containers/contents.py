"""What is remembered of a file's bytes once they were read: all that a proof will ask, and nothing else."""

from __future__ import annotations

import re
from typing import BinaryIO

from msgspec import Struct

from containers import elf, fatbin, ld_cache
from containers.elf import ElfFile
from containers.fatbin import Fat
from kit.errors import InvalidFileError

HEAD = 512  # bytes of a script that are kept: uv's scripts name their interpreter in the second line
HEADER = 16  # bytes of a .pyc file before its code
MOST_TEXT = 64 * 2**20  # a RECORD has a megabyte at most; a text of this size is none of ours

# Texts that are kept whole. Paths have no leading slash, as in a tar.
_TEXTS = re.compile(
    r".*\.dist-info/(METADATA|RECORD)|.*/torch/version\.py|etc/(passwd|ld\.so\.conf|ld\.so\.conf\.d/[^/]+)"
    r"|opt/stack/stack\.lock|\.singularity\.d/labels\.json"
)
LOADER_CACHE = ld_cache.CACHE
_NCCL = re.compile(r"(.*/)?libnccl\.so[.0-9]*")
_NCCL_SAYS = re.compile(rb"NCCL version ([0-9.]+)\+cuda([0-9.]+)")


class Facts(Struct, frozen=True, omit_defaults=True):
    """Of one file.

    elf     its claims; `broken` says why there are none though it begins as an ELF file does.
    fats    the fat binaries that it holds.
    text    of a file that is kept whole; of other scripts (#!) the first HEAD bytes.
    says    of NCCL: the versions that its own text names, as "2.29.7+cuda13.2".
    cached  of the loader's cache: the libraries that it leads to.
    header  of byte code of the stack: how it is held to its source.
    """

    elf: ElfFile | None = None
    broken: str | None = None
    fats: tuple[Fat, ...] = ()
    text: str | None = None
    says: tuple[str, ...] = ()
    cached: tuple[str, ...] = ()
    header: bytes = b""


def wanted(path: str, head: bytes) -> bool:
    """Whether `look` needs more of a file than its head (its first HEAD bytes)."""
    return head.startswith((b"\x7fELF", fatbin.MAGIC)) or path == LOADER_CACHE or bool(_TEXTS.fullmatch(path))


def look(path: str, head: bytes, size: int, file: BinaryIO) -> Facts | None:
    """The facts of a file, or None where nothing is to be remembered. `file` holds it where `wanted`."""
    if path.endswith(".pyc") and path.startswith("opt/stack/"):
        return Facts(header=head[:HEADER])
    if head.startswith(b"\x7fELF"):
        return _program(path, file)
    if head.startswith(fatbin.MAGIC):
        return _fat_file(path, size, file)
    if path == LOADER_CACHE:
        return Facts(cached=_cached(file.read()))
    if _TEXTS.fullmatch(path) and size <= MOST_TEXT:
        return Facts(text=file.read().decode("utf-8", "replace"))
    return Facts(text=head.decode("utf-8", "replace")) if head.startswith(b"#!") else None


def _program(path: str, file: BinaryIO) -> Facts:
    try:
        claims, section = elf.read_section(file, fatbin.SECTION, path)
        fats = fatbin.read(file, *section, path) if section else ()
    except InvalidFileError as bad:
        return Facts(broken=bad.message)
    return Facts(elf=claims, fats=fats, says=_nccl(file) if _NCCL.fullmatch(path) else ())


def _fat_file(path: str, size: int, file: BinaryIO) -> Facts:
    try:
        return Facts(fats=fatbin.read(file, 0, size, path))
    except InvalidFileError as bad:
        return Facts(broken=bad.message)


def _nccl(file: BinaryIO) -> tuple[str, ...]:
    found: set[str] = set()
    file.seek(0)
    before = b""
    while piece := file.read(2**22):
        for version, cuda in _NCCL_SAYS.findall(before + piece):
            found.add(f"{version.decode()}+cuda{cuda.decode()}")
        before = piece[-64:]
    return tuple(sorted(found))


def _cached(raw: bytes) -> tuple[str, ...]:
    """The libraries in an ld.so.cache; none where it is not one. Older ones begin with another table."""
    try:
        return tuple(each.path for each in ld_cache.decode(raw[max(0, raw.find(ld_cache.MAGIC)) :]))
    except ValueError:
        return ()
