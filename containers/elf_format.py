"""The ELF format, as far as a dynamic loader reads it: headers, segments, the dynamic table and versions.

Only what is asked for is read, by seeking: a library of half a gigabyte takes as long as a small one. (A
general reader of ELF, pyelftools, takes 6 ms a file and so 10 s an image; this takes a tenth of a
millisecond.) Bytes that are no ELF file, or a broken one, end in Broken.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterator
from typing import IO, NamedTuple

PT_LOAD, PT_DYNAMIC, PT_INTERP, PT_GNU_STACK = 1, 2, 3, 0x6474E551
DT_NEEDED, DT_STRTAB, DT_SONAME, DT_RPATH, DT_RUNPATH = 1, 5, 14, 15, 29
DT_VERDEF, DT_VERDEFNUM, DT_VERNEED, DT_VERNEEDNUM = 0x6FFFFFFC, 0x6FFFFFFD, 0x6FFFFFFE, 0x6FFFFFFF
ET_REL, ET_DYN = 1, 3
_MOST = 2**20  # bytes of one table, and of one name: more is a broken file


class Broken(ValueError):
    """What is wrong with the file."""


class Segment(NamedTuple):
    kind: int
    flags: int
    offset: int
    address: int
    size: int


class Reader:
    """An ELF file of either class and byte order. `stream` must be able to seek."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream
        ident = self._bytes(0, 16)
        if ident[:4] != b"\x7fELF" or ident[4] not in (1, 2) or ident[5] not in (1, 2):
            raise Broken("it does not begin as one does")
        self.wide = ident[4] == 2
        self.order = "<" if ident[5] == 1 else ">"
        head = self._unpack("HHIQQQIHHHHHH" if self.wide else "HHIIIIIHHHHHH", 16)
        self.type, self.machine = head[0], head[1]
        self._segments_at, self._sections_at = head[4], head[5]
        self._segment_size, self._segment_count, self._section_size, self._section_count, self._names = head[
            8:
        ]

    @functools.cached_property
    def segments(self) -> list[Segment]:
        found = []
        for number in range(self._segment_count):
            at = self._segments_at + number * self._segment_size
            if self.wide:
                kind, flags, offset, address, _, size = self._unpack("IIQQQQ", at)
            else:
                kind, offset, address, _, size, _, flags = self._unpack("IIIIIII", at)
            found.append(Segment(kind, flags, offset, address, size))
        return found

    @functools.cached_property
    def dynamic(self) -> list[tuple[int, int]]:
        """Tag and value, in the file's order, without the end's mark; empty for a static program."""
        for segment in self.segments:
            if segment.kind == PT_DYNAMIC and segment.size:
                layout = struct.Struct(self.order + ("qQ" if self.wide else "iI"))
                raw = self._bytes(segment.offset, segment.size - segment.size % layout.size)
                pairs = list(layout.iter_unpack(raw))
                end = next((number for number, (tag, _) in enumerate(pairs) if tag == 0), len(pairs))
                return pairs[:end]
        return []

    def values(self, tag: int) -> list[int]:
        return [value for each, value in self.dynamic if each == tag]

    def texts(self, tag: int) -> list[str]:
        """The strings that dynamic entries of a tag name."""
        return [self._string(value) for value in self.values(tag)]

    def interpreter(self) -> str | None:
        for segment in self.segments:
            if segment.kind == PT_INTERP:
                return self._bytes(segment.offset, segment.size).rstrip(b"\0").decode("utf-8", "replace")
        return None

    def needed_versions(self) -> Iterator[tuple[str, list[str]]]:
        """Library -> versions of its symbols that are asked for."""
        for at, (_, count, file, first, _) in self._chain(DT_VERNEED, DT_VERNEEDNUM, "HHIII"):
            names, here = [], at + first
            for _number in range(count):
                _hash, _flags, _other, name, following = self._unpack("IHHII", here)
                names.append(self._string(name))
                here += following
            yield self._string(file), names

    def defined_versions(self) -> list[str]:
        return [
            self._string(self._unpack("I", at + fields[5])[0])
            for at, fields in self._chain(DT_VERDEF, DT_VERDEFNUM, "HHHHIII")
        ]

    def section(self, name: str) -> tuple[int, int] | None:
        """Offset and size of a section; None where there is none of that name."""
        wanted = name.encode() + b"\0"
        names = self._section(self._names)[1] if self._names < self._section_count else 0
        for number in range(self._section_count):
            title, offset, size = self._section(number)
            if title and self._bytes(names + title, len(wanted), short=True) == wanted:
                return offset, size
        return None

    def _section(self, number: int) -> tuple[int, int, int]:
        at = self._sections_at + number * self._section_size
        fields = self._unpack("IIQQQQ" if self.wide else "IIIIII", at)
        return fields[0], fields[4], fields[5]

    def _chain(self, table: int, count: int, layout: str) -> Iterator[tuple[int, tuple[int, ...]]]:
        """Entries of a table in which each, in its last field, tells how far on the following one is."""
        for address, number in zip(self.values(table), self.values(count), strict=False):
            at = self._offset(address)
            for _number in range(number):
                fields = self._unpack(layout, at)
                yield at, fields
                if not fields[-1]:
                    break
                at += fields[-1]

    @functools.cached_property
    def _strings(self) -> int:
        found = self.values(DT_STRTAB)
        if not found:
            raise Broken("its dynamic table has no strings")
        return self._offset(found[0])

    def _string(self, at: int) -> str:
        start, found = self._strings + at, b""
        while b"\0" not in found:
            if len(found) > _MOST:
                raise Broken("a name in it has no end")
            more = self._bytes(start + len(found), 128, short=True)
            if not more:
                raise Broken("a name in it has no end")
            found += more
        return found.partition(b"\0")[0].decode("utf-8", "replace")

    def _offset(self, address: int) -> int:
        for each in self.segments:
            if each.kind == PT_LOAD and each.address <= address < each.address + each.size:
                return address - each.address + each.offset
        raise Broken(f"nothing of it is loaded at {address:#x}")

    def _unpack(self, layout: str, at: int) -> tuple[int, ...]:
        exact = self.order + layout
        return struct.unpack(exact, self._bytes(at, struct.calcsize(exact)))

    def _bytes(self, at: int, size: int, short: bool = False) -> bytes:
        if size > _MOST:
            raise Broken(f"a table in it has {size} bytes")
        self.stream.seek(at)
        raw = self.stream.read(size)
        if len(raw) < size and not short:
            raise Broken(f"it ends before offset {at + size}")
        return raw
