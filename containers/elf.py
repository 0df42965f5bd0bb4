"""What an ELF file says of itself: enough to tell, without running it, where it can run."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO

from msgspec import Struct

from kit.errors import InvalidFileError

if TYPE_CHECKING:  # a quarter of a second: too much for those who only ask for a layer's key
    from elftools.elf.elffile import ELFFile

_MACHINES = {"EM_X86_64": "x86_64", "EM_AARCH64": "aarch64"}
_EXECUTE = 1  # PF_X


class ElfFile(Struct, frozen=True, kw_only=True):
    """One ELF file's claims.

    machine     the kernel's word (x86_64, aarch64), or ELF's own for others (EM_PPC64).
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
    with _reading(stream, where) as elf:
        return _claims(elf)


def read_section(stream: BinaryIO, name: str, where: str) -> tuple[ElfFile, tuple[int, int] | None]:
    """The same, and where a section lies (offset, size in bytes); None where there is none of that name."""
    with _reading(stream, where) as elf:
        found = elf.get_section_by_name(name)
        return _claims(elf), (found["sh_offset"], found["sh_size"]) if found else None


@contextlib.contextmanager
def _reading(stream: BinaryIO, where: str) -> Iterator[ELFFile]:
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    try:
        yield ELFFile(stream)
    except (ELFError, ValueError, KeyError, AttributeError, UnicodeDecodeError) as bad:
        raise InvalidFileError(f"cannot read {where} as an ELF file: {bad or type(bad).__name__}") from bad


def _claims(elf: ELFFile) -> ElfFile:
    from elftools.elf.dynamic import DynamicSegment
    from elftools.elf.segments import InterpSegment

    segments = list(elf.iter_segments())
    dynamic = next((each for each in segments if isinstance(each, DynamicSegment)), None)
    tags = list(dynamic.iter_tags()) if dynamic else []
    stacks = [each["p_flags"] for each in segments if each["p_type"] == "PT_GNU_STACK"]
    machine = _MACHINES.get(elf["e_machine"], str(elf["e_machine"]))
    relocatable = elf["e_type"] == "ET_REL"
    assumed = machine == "x86_64" and bool(segments) and not relocatable

    def texts(kind: str, attribute: str) -> list[str]:
        return [str(getattr(tag, attribute)) for tag in tags if tag.entry.d_tag == kind]

    def folders(kind: str, attribute: str) -> tuple[str, ...]:
        return tuple(part for text in texts(kind, attribute) for part in text.split(":") if part)

    return ElfFile(
        machine=machine,
        interpreter=next((str(s.get_interp_name()) for s in segments if isinstance(s, InterpSegment)), None),
        needed=tuple(texts("DT_NEEDED", "needed")),
        soname=next(iter(texts("DT_SONAME", "soname")), None),
        rpath=folders("DT_RPATH", "rpath"),
        runpath=folders("DT_RUNPATH", "runpath"),
        # Without the header the loader assumes what the processor's ABI began with: executable on x86 only.
        executable_stack=any(flags & _EXECUTE for flags in stacks) if stacks else assumed,
        versions=_versions(elf),
        defined=_defined(elf),
        object=relocatable,
    )


def _versions(elf: ELFFile) -> dict[str, tuple[str, ...]]:
    from elftools.elf.gnuversions import GNUVerNeedSection

    return {
        str(library.name): tuple(str(version.name) for version in versions)
        for section in elf.iter_sections()
        if isinstance(section, GNUVerNeedSection)
        for library, versions in section.iter_versions()
    }


def _defined(elf: ELFFile) -> tuple[str, ...]:
    from elftools.elf.gnuversions import GNUVerDefSection

    return tuple(
        str(next(names).name)
        for section in elf.iter_sections()
        if isinstance(section, GNUVerDefSection)
        for _definition, names in section.iter_versions()
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
