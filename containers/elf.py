"""What an ELF file says of itself: enough to tell, without running it, where it can run."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from msgspec import Struct

from containers import elf_format
from kit.errors import InvalidFileError

_MACHINES = {62: "x86_64", 183: "aarch64", 3: "EM_386", 40: "EM_ARM", 190: "EM_CUDA"}
_EXECUTE = 1  # PF_X


class ElfFile(Struct, frozen=True, kw_only=True):
    """One ELF file's claims.

    machine     the kernel's word (x86_64, aarch64), or ELF's own for others (EM_386, or its number: EM_21).
    interpreter the program's loader; None for libraries and static programs.
    needed      sonames, in the file's order.  soname: its own, if it has one.
    rpath, runpath  search folders, $ORIGIN not yet replaced. A runpath switches all rpaths off for this file.
    executable_stack  True where it asks for one; glibc 2.41 and newer refuse to load such libraries.
    versions    library soname -> the versions of it that symbols need, as {"libc.so.6": ("GLIBC_2.34", …)}.
    defined     the versions of symbols that it offers to others.
    object      an object file (.o): input of a linker, which no loader ever maps.
    """

    machine: str
    interpreter: str | None
    needed: tuple[str, ...]
    soname: str | None
    rpath: tuple[str, ...]
    runpath: tuple[str, ...]
    executable_stack: bool
    versions: dict[str, tuple[str, ...]]
    defined: tuple[str, ...] = ()
    object: bool = False

    @property
    def glibc(self) -> tuple[int, ...]:
        """The newest glibc version that a symbol of this file needs, as (2, 34); () where it needs none."""
        wanted = [
            _numbers(name) for names in self.versions.values() for name in names if name.startswith("GLIBC_")
        ]
        return max(wanted, default=())


def is_elf(path: Path) -> bool:
    """Whether the file begins as ELF files do. False for folders, links to nowhere and short files."""
    try:
        with path.open("rb") as file:
            return file.read(4) == b"\x7fELF"
    except OSError:
        return False


def read(path: Path) -> ElfFile:
    """Reads headers and the dynamic section. InvalidFileError where it is no ELF file or a broken one."""
    try:
        with path.open("rb") as stream:
            return read_stream(stream, str(path))
    except OSError as bad:
        raise InvalidFileError(f"cannot read {path} as an ELF file: {bad}") from bad


def read_stream(stream: BinaryIO, where: str) -> ElfFile:
    """The same of an open file that can seek; `where` names it in errors."""
    return read_section(stream, "", where)[0]


def read_section(stream: BinaryIO, name: str, where: str) -> tuple[ElfFile, tuple[int, int] | None]:
    """The same, and where a section lies (offset, size in bytes); None where there is none of that name."""
    try:
        reader = elf_format.Reader(stream)
        return _claims(reader), reader.section(name) if name else None
    except (elf_format.Broken, OSError, ValueError, OverflowError) as bad:
        raise InvalidFileError(f"cannot read {where} as an ELF file: {bad}") from bad


def _claims(elf: elf_format.Reader) -> ElfFile:
    def folders(tag: int) -> tuple[str, ...]:
        return tuple(part for text in elf.texts(tag) for part in text.split(":") if part)

    machine = _MACHINES.get(elf.machine, f"EM_{elf.machine}")
    stacks = [each.flags for each in elf.segments if each.kind == elf_format.PT_GNU_STACK]
    is_object = elf.type == elf_format.ET_REL
    # Without the header the loader assumes what the processor's ABI began with: executable on x86 only.
    assumed = machine == "x86_64" and not is_object
    return ElfFile(
        machine=machine,
        interpreter=elf.interpreter(),
        needed=tuple(elf.texts(elf_format.DT_NEEDED)),
        soname=next(iter(elf.texts(elf_format.DT_SONAME)), None),
        rpath=folders(elf_format.DT_RPATH),
        runpath=folders(elf_format.DT_RUNPATH),
        executable_stack=any(flags & _EXECUTE for flags in stacks) if stacks else assumed,
        versions={library: tuple(names) for library, names in elf.needed_versions()},
        defined=tuple(elf.defined_versions()),
        object=is_object,
    )


def _numbers(version: str) -> tuple[int, ...]:
    """(2, 34) of GLIBC_2.34; () of GLIBC_PRIVATE and of anything else without numbers."""
    text = version.removeprefix("GLIBC_")
    return tuple(int(part) for part in text.split(".")) if text.replace(".", "").isdigit() else ()


class Tree:
    """The ELF files below a folder that stands for a root file system, and how they find each other.

    Links are followed inside the root, never out of it. Each file is read once.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.read = functools.cache(read)

    def files(self, below: str = "/") -> Iterator[Path]:
        """All ELF files (not links to them) below a path of the root, in a fixed order."""
        for path in sorted(self.inside(below).rglob("*")):
            if path.is_file() and not path.is_symlink() and is_elf(path):
                yield path

    def inside(self, path: str) -> Path:
        """The root's own `path` as a path of this host; only `..` and links are taken care of by `real`."""
        return self.root / path.lstrip("/")

    def real(self, path: str) -> Path | None:
        """The file that `path` means inside the root, links followed there; None where there is none."""
        here = PurePosixPath("/")
        parts = list(PurePosixPath(path).parts[1:])
        for _step in range(256):
            if not parts:
                found = self.inside(str(here))
                return found if found.exists() else None
            part = parts.pop(0)
            here = here.parent if part == ".." else here / part
            at = self.inside(str(here))
            if at.is_symlink():
                target = PurePosixPath(at.readlink())
                here = PurePosixPath("/") if target.is_absolute() else here.parent
                parts = [each for each in target.parts if each != "/"] + parts
        return None

    def find(self, name: str, folders: Iterable[str]) -> Path | None:
        """The first of `folders` (paths of the root) that holds a library called `name`."""
        for folder in folders:
            if (found := self.real(f"{folder}/{name}")) and found.is_file():
                return found
        return None

    def missing(self, below: str = "/", defaults: Iterable[str] = ()) -> Mapping[Path, tuple[str, ...]]:
        """ELF file -> libraries it needs that are neither on its own path, nor in `defaults`, nor loaded
        before it can ask: `defaults` are the folders that the programs which load it search."""
        lacking: dict[Path, tuple[str, ...]] = {}
        for path in self.files(below):
            claims = self.read(path)
            search = [*self._own(path, claims.rpath + claims.runpath), *defaults]
            lost = tuple(name for name in claims.needed if not self.find(name, search))
            if lost:
                lacking[path] = lost
        return lacking

    def _own(self, path: Path, folders: Iterable[str]) -> list[str]:
        origin = "/" + str(path.parent.relative_to(self.root))
        return [each.replace("${ORIGIN}", origin).replace("$ORIGIN", origin) for each in folders]
