"""The host's network libraries inside a container, and whether the image can load them.

They are bound one by one into FOLDER, never the host's C library. What they need beside must be there
already: in FOLDER, in the image, among the driver's libraries, or loaded by torch before (NCCL loads the
plugin). It is looked up without running anything, because a plugin that does not load makes NCCL fall back to
TCP, twenty times slower, without a word at its usual level.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from containers import elf
from containers.elf import ElfFile
from kit.errors import InvalidFileError
from slurm.fabric import FOLDER

C_LIBRARY = re.compile(r"(ld-linux|libc|libpthread|libm|libdl|librt|libresolv)[-.][\w.-]*so[\w.-]*")
PLUGIN = re.compile(r"libnccl-net.*\.so")
DEFAULTS = ("/lib64", "/usr/lib64", "/lib", "/usr/lib")


def names(folder: Path = Path(FOLDER)) -> tuple[str, ...]:
    """The names of the libraries that were bound; none where no network of the host was."""
    return tuple(sorted(path.name for path in folder.iterdir())) if folder.is_dir() else ()


def wrong(
    sites: Iterable[Path] = (),
    env: Mapping[str, str] | None = None,
    folder: Path = Path(FOLDER),
    root: Path = Path("/"),
) -> tuple[str, ...]:
    """What keeps the image from loading the libraries of `folder`, one line each; empty where nothing does.

    `sites` are the folders of Python's packages, which have CUDA's libraries; `env` has LD_LIBRARY_PATH.
    """
    if not folder.is_dir():
        return ()
    search = Search(root, folder, sites, (env or {}).get("LD_LIBRARY_PATH", ""))
    found: list[str] = []
    for path in sorted(folder.iterdir()):
        if C_LIBRARY.fullmatch(path.name):
            found.append(f"{path.name} is the host's C library, which no container may have")
        elif elf.is_elf(path):
            found += search.lacking(path)
    return tuple(dict.fromkeys(found))


class Search:
    """How the image's loader finds what a library needs."""

    def __init__(self, root: Path, folder: Path, sites: Iterable[Path], library_path: str) -> None:
        self.root, self.folder = root, folder
        named = [root / each.lstrip("/") for each in library_path.split(":") if each]
        cuda = [place for site in sites for place in sorted(site.glob("nvidia/*/lib"))]
        self.folders = [folder, *named, *cuda]
        self.read = functools.cache(_read)

    @functools.cached_property
    def cached(self) -> dict[str, list[str]]:
        """Name -> paths of the loader's cache: one for each machine that the image has libraries for."""
        from containers import ld_cache  # on the few nodes that need it

        paths: dict[str, list[str]] = {}
        try:
            entries = ld_cache.decode((self.root / ld_cache.CACHE).read_bytes())
        except (OSError, ValueError):
            return {}
        for entry in entries:
            paths.setdefault(entry.name, []).append(entry.path)
        return paths

    def lacking(self, path: Path) -> Iterator[str]:
        """What a library needs and would not get, in words."""
        claims = self.read(path)
        if claims is None:
            yield f"{path.name} is no library that can be read"
            return
        for name in claims.needed:
            there = self.find(name, path, claims)
            if there is None:
                yield f"{path.name} needs {name}, which is neither in the image nor in {self.folder}"
                continue
            provider = self.read(there)
            defined = set(provider.defined) if provider else set()
            lost = [each for each in claims.versions.get(name, ()) if each not in defined]
            if lost:  # the newest is the one to be told: the image's library is older than that
                yield f"{path.name} needs {max(lost, key=_order)} of {name}, which {there} has not"

    def find(self, name: str, path: Path, claims: ElfFile) -> Path | None:
        """The library that `name` means, of the same machine; None where there is none."""
        for place in self._places(name, path, claims):
            if place.is_file() and (found := self.read(place)) and found.machine == claims.machine:
                return place
        return None

    def _places(self, name: str, path: Path, claims: ElfFile) -> Iterator[Path]:
        for each in claims.runpath or claims.rpath:
            yield self._inside(each.replace("${ORIGIN}", "$ORIGIN"), path) / name
        for folder in self.folders:
            yield folder / name
        for each in self.cached.get(name, ()):
            yield self.root / each.lstrip("/")
        for each in (f"/lib/{claims.machine}-linux-gnu", f"/usr/lib/{claims.machine}-linux-gnu", *DEFAULTS):
            yield self.root / each.lstrip("/") / name

    def _inside(self, place: str, path: Path) -> Path:
        if place.startswith("$ORIGIN"):
            return Path(str(path.parent) + place.removeprefix("$ORIGIN"))
        return self.root / PurePosixPath(place).relative_to("/") if place.startswith("/") else self.root


def _read(path: Path) -> ElfFile | None:
    try:
        return elf.read(path)
    except InvalidFileError:
        return None


def _order(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))
