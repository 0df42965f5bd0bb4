"""The loader's cache, /etc/ld.so.cache, written for any machine without running its ldconfig.

Programs find libraries without it, by the default folders; but `ldconfig -p` reads it, and Triton and
Python's ctypes.util.find_library ask that.

The format is glibc's own ("glibc-ld.so.cache1.1", sysdeps/generic/dl-cache.h): a header, entries in the order
that the loader's binary search needs, and the strings. What is left out: libraries for certain processors
only (glibc-hwcaps), which the loader then does not look for.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import IO

from msgspec import Struct

from containers import elf_format
from containers.root_tar import RootTar
from kit.nouns import Platform

CACHE, CONFIGURED = "etc/ld.so.cache", "etc/ld.so.conf"
DEFAULTS = ("lib", "usr/lib")
MAGIC = b"glibc-ld.so.cache1.1"
_LITTLE_ENDIAN = 2
_HEADER, _ENTRY = struct.Struct("<20sIIB3xI12x"), struct.Struct("<iIIIQ")
_FLAGS = {"amd64": 0x0303, "arm64": 0x0A03}  # FLAG_ELF_LIBC6 and the machine's own
_MACHINES = {"amd64": 62, "arm64": 183}  # e_machine
_NAME = re.compile(r"(lib.*|ld-.*)\.so(\..+)?$")


class Entry(Struct, frozen=True):
    """A library under the name that programs ask for, and where the loader finds it."""

    name: str
    path: str


def refresh(made: RootTar, platform: Platform) -> tuple[Entry, ...]:
    """Does what ldconfig does: a link for each library's own name, and the cache. Returns what it lists."""
    found: list[Entry] = []
    for folder in folders(made):
        found += _listed(made, folder, platform)
    made.text(CACHE, encode(found, platform))
    return tuple(found)


def folders(made: RootTar) -> list[str]:
    """The folders that are searched, as they are named, each real one once and in the loader's order."""
    there: dict[str, str] = {}
    for named in [*_configured(made, CONFIGURED), *DEFAULTS]:
        real = made.real(named)
        if real is not None and made.names(real):
            there.setdefault(real, named.strip("/"))
    return list(there.values())


def _configured(made: RootTar, file: str) -> Iterator[str]:
    if not made.is_file(file):
        return
    for line in made.read(file).decode(errors="replace").splitlines():
        words = line.partition("#")[0].split()
        if words[:1] == ["include"]:
            for pattern in map(PurePosixPath, words[1:]):
                above = str(PurePosixPath("/etc") / pattern.parent).lstrip("/")
                for name in made.names(above):
                    if PurePosixPath(name).match(pattern.name):
                        yield from _configured(made, f"{above}/{name}")
        else:
            yield from (word.rstrip("/") for word in words)


def _listed(made: RootTar, folder: str, platform: Platform) -> Iterator[Entry]:
    """The libraries of one folder."""
    real = made.real(folder) or folder
    names: set[str] = set()
    for name in made.names(folder):
        path = f"{real}/{name}"
        if not _NAME.match(name) or not made.is_file(path):
            continue
        with made.open(path) as file:
            soname = own_name(file, platform)
        if soname is None:
            continue
        asked = _asked_as(name, soname, made.is_link(path))
        names.add(asked)
        made.link(f"{real}/{asked}", name)
    yield from (Entry(name, f"/{folder}/{name}") for name in sorted(names))


def _asked_as(name: str, soname: str, link: bool) -> str:
    """The name a library gets in the cache: its own, but a link for the linker (libz.so) keeps the link's."""
    for_linker = link and name.endswith(".so") and soname.startswith(name)
    return name if for_linker or not soname else soname


def own_name(file: IO[bytes], platform: Platform) -> str | None:
    """A shared library's own name, "" where it has none; None for what is no library of the platform."""
    try:
        found = elf_format.Reader(file)
        kind = found.wide, found.order, found.type, found.machine
        if kind != (True, "<", elf_format.ET_DYN, _MACHINES[platform.arch]):
            return None
        if all(segment.kind != elf_format.PT_DYNAMIC for segment in found.segments):
            return None
        return next(iter(found.texts(elf_format.DT_SONAME)), "")
    except elf_format.Broken:
        return None


def encode(entries: list[Entry], platform: Platform) -> bytes:
    """The cache's bytes. Of several libraries with one name, the first of `entries` is the one found."""
    ordered = sorted(entries, key=lambda each: _order(each.name), reverse=True)  # stable in reverse too
    table, strings = io.BytesIO(), io.BytesIO()
    at, offsets = _HEADER.size + _ENTRY.size * len(ordered), dict[str, int]()
    for text in (text for each in ordered for text in (each.name, each.path)):
        if text not in offsets:
            offsets[text] = at + strings.tell()
            strings.write(text.encode() + b"\0")
    for each in ordered:
        table.write(_ENTRY.pack(_FLAGS[platform.arch], offsets[each.name], offsets[each.path], 0, 0))
    head = _HEADER.pack(MAGIC, len(ordered), strings.tell(), _LITTLE_ENDIAN, 0)
    return head + table.getvalue() + strings.getvalue()


def decode(raw: bytes) -> list[Entry]:
    """The entries of a cache, in its order. ValueError where it is none of this format."""
    try:
        magic, count, size, _, _ = _HEADER.unpack_from(raw)
        if magic != MAGIC or len(raw) < _HEADER.size + _ENTRY.size * count + size:
            raise ValueError("not a cache of the loader, or not all of it")

        def text(at: int) -> str:
            return raw[at : raw.index(b"\0", at)].decode()

        found = [_ENTRY.unpack_from(raw, _HEADER.size + _ENTRY.size * number) for number in range(count)]
        return [Entry(text(each[1]), text(each[2])) for each in found]
    except struct.error as short:
        raise ValueError("not a cache of the loader, or not all of it") from short


def _order(name: str) -> tuple[tuple[int, int], ...]:
    """The loader's order of names (_dl_cache_libcmp): digits count as numbers, and come after all else."""
    parts = re.findall(r"\d+|\D", name)
    return tuple((1, int(each)) if each.isdigit() else (0, ord(each)) for each in parts)
