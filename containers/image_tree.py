"""The files of an image as a process in it would see them: layers merged, links followed."""

from __future__ import annotations

import functools
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from containers.contents import LOADER_CACHE, Facts
from containers.elf import ElfFile
from containers.inventory import Entry, Inventory
from kit.nouns import Platform

SELF_CONTAINED = ("/opt/stack", "/slipworks")
WHITEOUT, OPAQUE = ".wh.", ".wh..wh..opq"
_NONE = Facts()


class ImageTree:
    """Layers, lowest first, as one tree. Paths begin with a slash."""

    def __init__(self, layers: Iterable[Inventory]) -> None:
        self.entries: dict[str, Entry] = {}
        self.facts: dict[str, Facts] = {}
        for layer in layers:
            self._put(layer)
        for path in _folders(self.entries):  # those that no layer states are there as well
            self.entries.setdefault(path, Entry(path[1:], "folder", 0o755))
        self.real = functools.cache(self._real)
        self.libraries = self._libraries()

    def _put(self, layer: Inventory) -> None:
        # What a layer hides lies below it, never in it (image-spec: whiteouts apply to lower layers only).
        self._hide(set(_hidden(layer, self.entries)))
        for entry in layer.entries:
            if entry.path.rpartition("/")[2].startswith(WHITEOUT):
                continue
            path = f"/{entry.path}"
            self.facts.pop(path, None)
            if entry.kind == "hard" and (meant := self.entries.get(f"/{entry.target}")):
                self.entries[path] = meant
                if facts := self.facts.get(f"/{entry.target}"):
                    self.facts[path] = facts
            else:
                self.entries[path] = entry
            if facts := layer.facts.get(entry.path):
                self.facts[path] = facts

    def _hide(self, gone: set[str]) -> None:
        if not gone:
            return
        kept = {path: entry for path, entry in self.entries.items() if not _below(path, gone)}
        self.entries = kept
        self.facts = {path: facts for path, facts in self.facts.items() if path in kept}

    def _libraries(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = defaultdict(list)
        for path, entry in self.entries.items():
            name = path.rpartition("/")[2]
            if ".so" in name and entry.kind in ("file", "link"):
                found[name].append(path)
        return found

    def _real(self, path: str) -> str | None:
        here, parts = "/", [part for part in path.split("/") if part not in ("", ".")]
        for _step in range(512):
            if not parts:
                return here if here == "/" or here in self.entries else None
            part = parts.pop(0)
            here = str(PurePosixPath(here).parent) if part == ".." else f"{here.rstrip('/')}/{part}"
            entry = self.entries.get(here)
            if entry and entry.kind == "link":
                here = "/" if entry.target.startswith("/") else here.rpartition("/")[0] or "/"
                parts = [each for each in entry.target.split("/") if each not in ("", ".")] + parts
        return None

    def entry(self, path: str) -> Entry | None:
        """What `path` leads to, links followed; None where that is nothing."""
        there = self.entries.get(path)
        if there and there.kind != "link":  # no folder above it is a link, or it would have another path
            return there
        real = self.real(path)
        return self.entries.get(real) if real else None

    def fact(self, path: str) -> Facts:
        """What is remembered of the file that `path` leads to; empty where that is nothing."""
        real = self.real(path)
        return self.facts.get(real, _NONE) if real else _NONE

    def text(self, path: str) -> str | None:
        """A text that is kept, whole or its beginning (contents.look)."""
        return self.fact(path).text

    def elf(self, path: str) -> ElfFile | None:
        return self.fact(path).elf

    def programs(self) -> Iterator[tuple[str, ElfFile]]:
        """All ELF files (not links to them), by path."""
        for path in sorted(self.facts):
            if claims := self.facts[path].elf:
                yield path, claims

    def matching(self, pattern: str) -> list[str]:
        """The paths of remembered files that match a pattern (* crosses folders), in order."""
        return sorted(path for path in self.facts if fnmatchcase(path, pattern))


def _hidden(layer: Inventory, below: dict[str, Entry]) -> Iterator[str]:
    folders = _folders(below)
    for entry in layer.entries:
        folder, _, name = entry.path.rpartition("/")
        if name == OPAQUE:
            yield f"/{folder}/" if folder else "/"
        elif name.startswith(WHITEOUT):
            yield f"/{folder}/{name.removeprefix(WHITEOUT)}".replace("//", "/")
        elif entry.kind != "folder" and f"/{entry.path}" in folders:
            yield f"/{entry.path}"


def _folders(entries: Iterable[str]) -> set[str]:
    """All folders that hold something, whether or not a layer states them."""
    found: set[str] = set()
    for path in entries:
        while (path := path.rpartition("/")[0]) and path not in found:
            found.add(path)
    return found


def _below(path: str, gone: set[str]) -> bool:
    """Whether a path or a folder above it is gone. "/a/" means all in /a, and not /a itself."""
    if path in gone or "/" in gone:
        return True
    while path:
        path = path.rpartition("/")[0]
        if path in gone or f"{path}/" in gone:
            return True
    return False


_OWN_LOADER = re.compile(r"(/(?!usr/)[^/]+)/lib/ld-linux[^/]*")  # of a folder like /slipworks


class Loader:
    """How the image's dynamic loader (glibc's) finds libraries."""

    def __init__(self, tree: ImageTree, platform: Platform) -> None:
        self.tree = tree
        self.machine = platform.machine
        triplet = f"{self.machine}-linux-gnu"
        # Built into Debian's loader in this order; elsewhere those that do not exist change nothing.
        self.defaults = [f"{top}/{each}" for each in (triplet, "") for top in ("/lib", "/usr/lib")]
        self.defaults += ["/lib64", "/usr/lib64"]
        # It reads its cache and never ld.so.conf itself.
        # A self-contained layer's programs bring their loader and are searched for before the image's own.
        loaders = (_OWN_LOADER.fullmatch(path) for path in tree.entries)
        self.tops = {found[1] for found in loaders if found}
        self.cached: dict[str, str] = {}
        for path in tree.fact(f"/{LOADER_CACHE}").cached:
            self.cached.setdefault(path.rpartition("/")[2], path)

    def find(self, path: str, claims: ElfFile, name: str) -> str | None:
        """The library that `name` means for the file at `path`; None where it would not be found.

        What a program that loads this file adds by an rpath of its own is not known here.
        """
        if "/" in name:
            return self._fits(name, claims.machine)
        for folder in self._own(path, claims.runpath or claims.rpath):
            if found := self._fits(f"{folder}/{name}", claims.machine):
                return found
        if (top := f"/{path.split('/')[1]}") in self.tops and (
            found := self._fits(f"{top}/lib/{name}", claims.machine)
        ):
            return found
        if (cached := self.cached.get(name)) and (found := self._fits(cached, claims.machine)):
            return found
        for folder in self.defaults:
            if found := self._fits(f"{folder}/{name}", claims.machine):
                return found
        return None

    def loaded_before(self, path: str, claims: ElfFile, name: str) -> str | None:
        """A library that somebody else has to have loaded before this file is: one of the same tree, or of
        the same folder elsewhere. None for programs: nobody loads for them."""
        if claims.interpreter and not claims.soname and ".so" not in path.rpartition("/")[2]:
            return None
        trees = [tree for tree in SELF_CONTAINED if path.startswith(f"{tree}/")]
        return self._anywhere(name, claims.machine, trees[0] if trees else path.rpartition("/")[0])

    def _anywhere(self, name: str, machine: str, below: str) -> str | None:
        for path in sorted(self.tree.libraries.get(name, ())):
            if path.startswith(f"{below}/") and (found := self._fits(path, machine)):
                return found
        return None

    def _fits(self, path: str, machine: str) -> str | None:
        """The real path of a library of that machine; the loader passes over those of others."""
        claims = self.tree.elf(path)
        return self.tree.real(path) if claims and claims.machine == machine else None

    def _own(self, path: str, folders: Iterable[str]) -> Iterator[str]:
        origin = path.rpartition("/")[0]
        for each in folders:
            for word, value in (("ORIGIN", origin), ("PLATFORM", self.machine), ("LIB", "lib64")):
                each = each.replace(f"${{{word}}}", value).replace(f"${word}", value)
            yield each
