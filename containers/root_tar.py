"""Root file systems as tars: put together, cleaned and written without unpacking and without being root."""

from __future__ import annotations

import copy
import io
import os
import re
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from posixpath import dirname, join, normpath
from typing import IO

from kit.errors import BuildError

MTIME = 315532800  # 1980-01-01, for all that is made here

# Documentation that no program reads (what demands to be shown, copyright, stays), and the Python library for
# those who link a Python of their own, statically.
_UNREAD = re.compile(
    r"usr/share/(man|info|locale|lintian|linda|bug|doc-base|groff)/."
    r"|usr/share/doc/(?!.*(?:/copyright$|/$)).+/."
    r"|usr/lib/python3[^/]*/config-[^/]+/libpython[^/]*\.a$"
)
# What tells of the machine that made it, or is made again at the first use.
_LOCAL = re.compile(
    r"etc/apt/sources\.list$|etc/apt/sources\.list\.d/.|etc/apt/auth\.conf"
    r"|etc/(hostname|resolv\.conf|machine-id)$|var/lib/dbus/machine-id$|etc/[a-z]+-$"
    r"|var/lib/apt/lists/.|var/cache/(apt|debconf|ldconfig)/.|var/log/.+|tmp/.|dev/."
)
MERGED = ("bin", "sbin", "lib", "lib64")
"""Folders that merged-/usr distributions keep under /usr, with a link in the old place."""

_LINKS = 40  # as many as the kernel follows
Source = tarfile.TarFile | bytes


class RootTar:
    """Entries by path ("usr/bin/env", no leading slash); the last one given for a path counts.

    below   a root file system on disk that the tar will lie upon, as a layer does: entries go where its links
            lead, never in their place, and none restates one of its folders. Reading sees both.
    """

    def __init__(self, below: Path | None = None) -> None:
        self.entries: dict[str, tuple[tarfile.TarInfo, Source]] = {}
        self.below = below
        self._seen: dict[str, str | None] = {}
        if below is None:
            for name in MERGED:
                self.link(name, f"usr/{name}")

    def add(self, tar: tarfile.TarFile) -> None:
        """All that a tar holds, less what `_UNREAD` and `_LOCAL` name. It must stay open until `write`."""
        for info in tar:
            name = info.name.removeprefix("./").strip("/")
            if not name or name == "." or _UNREAD.match(name) or _LOCAL.match(name):
                continue
            name = self.place(name)
            if info.isdir() and self._target(name) is not None:
                continue  # the link stays: the folder is what it leads to
            folder = self.is_folder(name)
            if folder and (info.isdir() or info.issym()):
                continue  # the first to bring a folder sets its mode, and it stays one, as with dpkg
            if folder:
                raise BuildError(f"/{name} is a folder, and a package brings a file of that name")
            self.entries[name] = (info, tar)

    def text(self, path: str, content: str | bytes, mode: int = 0o644, group: int = 0) -> None:
        """A file made here, owned by root."""
        raw = content.encode() if isinstance(content, str) else content
        info = tarfile.TarInfo(self.place(path))
        info.size, info.mode, info.mtime, info.gid = len(raw), mode, MTIME, group
        self.entries[info.name] = (info, raw)

    def link(self, path: str, target: str) -> None:
        """A symbolic link made here, unless something has that path already."""
        self._make(path, tarfile.SYMTYPE, 0o777, target)

    def folder(self, path: str, mode: int = 0o755) -> None:
        """A folder made here, unless something has that path already."""
        self._make(path, tarfile.DIRTYPE, mode, "")

    def _make(self, path: str, kind: bytes, mode: int, target: str) -> None:
        name = self.place(path)
        if name not in self.entries and not self._lies_below(name):
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.mode, info.mtime = kind, target, mode, MTIME
            self.entries[name] = (info, b"")

    def place(self, path: str) -> str:
        """Where a path really is: links on its way are followed, it itself is not."""
        above, _, last = path.rpartition("/")
        return join(self._real(above), last) if above else last

    def real(self, path: str) -> str | None:
        """Where a path leads in the end, links followed inside the root; None where nothing is there."""
        found = self._real(path.lstrip("/"))
        there = found in self.entries or self._lies_below(found) or self.names(found)
        return found if there else None

    def _real(self, path: str, links: int = _LINKS) -> str:
        if not links:
            raise BuildError(f"too many links on the way to /{path}")
        done = ""
        for part in path.split("/"):
            done = join(done, part)
            target = self._target(done)
            if target is not None:
                inside = normpath(join("/", dirname(done), target)).lstrip("/")
                done = self._real(inside, links - 1)
        return done

    def _target(self, path: str) -> str | None:
        """Where a link leads; None for what is none."""
        if path in self.entries:
            info = self.entries[path][0]
            return info.linkname if info.issym() else None
        if path not in self._seen:
            there = self.below / path if self.below and path else None
            self._seen[path] = str(there.readlink()) if there and there.is_symlink() else None
        return self._seen[path]

    def _lies_below(self, path: str) -> bool:
        return self.below is not None and os.path.lexists(self.below / path)

    def is_folder(self, path: str) -> bool:
        """Whether a folder is there already, or a link that leads to one."""
        path = self._real(path)
        if path in self.entries:
            return self.entries[path][0].isdir()
        return self.below is not None and (self.below / path).is_dir()

    def open(self, path: str) -> IO[bytes]:
        """A file, links followed. BuildError where there is no such file."""
        found = self._real(path)
        if found in self.entries:
            info, source = self.entries[found]
            file = io.BytesIO(source) if isinstance(source, bytes) else source.extractfile(info)
            if file and not info.isdir():
                return file
        elif self.below and (self.below / found).is_file():
            return (self.below / found).open("rb")
        raise BuildError(f"the root file system holds no /{path}")

    def read(self, path: str) -> bytes:
        """A file's content, links followed. BuildError where there is no such file."""
        with self.open(path) as file:
            return file.read()

    def is_file(self, path: str) -> bool:
        """Whether a path leads to a file."""
        found = self._real(path)
        if found in self.entries:
            info = self.entries[found][0]
            return info.isreg() or info.islnk()
        return self.below is not None and (self.below / found).is_file()

    def is_link(self, path: str) -> bool:
        """Whether a path is itself a link."""
        return self._target(self.place(path)) is not None

    def names(self, folder: str) -> list[str]:
        """What a folder holds, by name, in order; of `below` too."""
        real = self._real(folder)
        top = f"{real}/"
        here = {path[len(top) :].partition("/")[0] for path in self.entries if path.startswith(top)}
        if self.below and (self.below / real).is_dir():
            here |= {each.name for each in (self.below / real).iterdir()}
        return sorted(here)

    def matching(self, pattern: str) -> Iterator[str]:
        """The paths of entries (none of `below`) that a regular expression matches whole, in order."""
        return (path for path in sorted(self.entries) if re.fullmatch(pattern, path))

    def unpack(self, folder: Path, wanted: Callable[[str], bool]) -> None:
        """Writes the wanted files and links below a folder of this machine, as its user's own."""
        for path in sorted(self.entries):
            if not wanted(path):
                continue
            info, _ = self.entries[path]
            out = folder / path
            out.parent.mkdir(parents=True, exist_ok=True)
            if info.issym():
                out.symlink_to(info.linkname)
            elif info.isreg() or info.islnk():
                out.write_bytes(self.read(path))
                out.chmod(0o755 if info.mode & 0o100 else 0o644)

    def write(self, out: Path) -> None:
        """Writes the tar: parents first, then by name; times no newer than the newest package's."""
        written: dict[tuple[int, str], str] = {}
        with tarfile.open(out, "w", format=tarfile.PAX_FORMAT) as tar:
            for path in sorted(self.entries, key=lambda each: each.split("/")):
                info, source = self.entries[path]
                if info.ischr() or info.isblk() or info.isfifo():
                    continue
                clean = _clean(info, path)
                if not clean.isreg() and not clean.islnk():
                    tar.addfile(clean)
                    continue
                # Of files that are one, the first in this order is the file, whichever it was in the package.
                same = (id(source), info.linkname if info.islnk() else info.name)
                if same in written:
                    clean.type, clean.linkname, clean.size = tarfile.LNKTYPE, written[same], 0
                    clean.pax_headers = {}
                    tar.addfile(clean)
                    continue
                written[same] = path
                with self.open(path) as file:
                    clean.type, clean.linkname = tarfile.REGTYPE, ""
                    clean.size = file.seek(0, io.SEEK_END)
                    file.seek(0)
                    tar.addfile(clean, file)


def _clean(info: tarfile.TarInfo, path: str) -> tarfile.TarInfo:
    """A copy under `path` with ids only (names differ by machine) and no header but file capabilities."""
    clean = copy.copy(info)
    clean.name, clean.uname, clean.gname, clean.mtime = path, "", "", int(info.mtime)
    clean.pax_headers = {
        name: value for name, value in info.pax_headers.items() if name.startswith("SCHILY.xattr.")
    }
    return clean
