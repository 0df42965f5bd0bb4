"""Root file systems as tars: put together, cleaned and written without unpacking and without being root."""

from __future__ import annotations

import copy
import io
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

from kit.errors import BuildError

MTIME = 315532800  # 1980-01-01, for all that is made here

# Documentation that no program reads; what demands to be shown (copyright) stays.
_UNREAD = re.compile(
    r"usr/share/(man|info|locale|lintian|linda|bug|doc-base|groff)/."
    r"|usr/share/doc/(?!.*(?:/copyright$|/$)).+/."
)
# What tells of the machine that made it, or is made again at the first use.
_LOCAL = re.compile(
    r"etc/apt/sources\.list$|etc/apt/sources\.list\.d/.|etc/apt/apt\.conf\.d/99mmdebstrap|etc/apt/auth\.conf"
    r"|etc/(hostname|resolv\.conf|machine-id)$|var/lib/dbus/machine-id$|etc/[a-z]+-$"
    r"|var/lib/apt/lists/.|var/cache/(apt|debconf|ldconfig)/.|var/log/.+|tmp/.|dev/."
)
# Folders that merged-/usr distributions keep under /usr, with a link in the old place.
_MERGED = ("bin", "sbin", "lib", "lib64")


class RootTar:
    """Entries by path ("usr/bin/env", no leading slash); the last one given for a path counts."""

    def __init__(self) -> None:
        self.entries: dict[str, tuple[tarfile.TarInfo, tarfile.TarFile | bytes]] = {}

    def add(self, tar: tarfile.TarFile, merged: bool = False) -> None:
        """All that a tar holds, less what `_UNREAD` and `_LOCAL` name. The tar must stay open until `write`.

        `merged`: entries below /bin, /sbin, /lib and /lib64 move below /usr, where the links lead.
        """
        for info in tar:
            name = info.name.removeprefix("./").strip("/")
            if not name or name == "." or _UNREAD.match(name) or _LOCAL.match(name):
                continue
            top = name.partition("/")[0]
            if merged and top in _MERGED:
                if info.issym() and name == top:
                    continue
                name = f"usr/{name}"
            if info.isdir() and name in self.entries:
                continue  # the first to bring a folder sets its mode, as with dpkg
            self.entries[name] = (info, tar)

    def text(self, path: str, content: str | bytes, mode: int = 0o644) -> None:
        """A file made here, owned by root."""
        raw = content.encode() if isinstance(content, str) else content
        info = tarfile.TarInfo(path)
        info.size, info.mode, info.mtime = len(raw), mode, MTIME
        self.entries[path] = (info, raw)

    def link(self, path: str, target: str) -> None:
        """A symbolic link made here, unless something has that path already."""
        if path not in self.entries:
            info = tarfile.TarInfo(path)
            info.type, info.linkname, info.mode, info.mtime = tarfile.SYMTYPE, target, 0o777, MTIME
            self.entries[path] = (info, b"")

    def folder(self, path: str, mode: int = 0o755) -> None:
        """A folder made here, unless something has that path already."""
        if path not in self.entries:
            info = tarfile.TarInfo(path)
            info.type, info.mode, info.mtime = tarfile.DIRTYPE, mode, MTIME
            self.entries[path] = (info, b"")

    def read(self, path: str) -> bytes:
        """A file's content. BuildError where there is no such file."""
        if path not in self.entries:
            raise BuildError(f"the root file system holds no /{path}")
        info, source = self.entries[path]
        if isinstance(source, bytes):
            return source
        file = source.extractfile(info)
        return file.read() if file else b""

    def matching(self, pattern: str) -> Iterator[str]:
        """The paths that a regular expression matches whole, in order."""
        return (path for path in sorted(self.entries) if re.fullmatch(pattern, path))

    def write(self, out: Path) -> None:
        """Writes the tar: parents first, then by name; times no newer than the newest package's."""
        with tarfile.open(out, "w", format=tarfile.PAX_FORMAT) as tar:
            for path in sorted(self.entries, key=lambda each: each.split("/")):
                info, source = self.entries[path]
                if info.ischr() or info.isblk() or info.isfifo():
                    continue
                clean = _clean(info, path)
                if clean.islnk():  # written whole: its target may come later in this order
                    clean.type, content = tarfile.REGTYPE, self.read(path)
                    clean.linkname, clean.size = "", len(content)
                    tar.addfile(clean, io.BytesIO(content))
                elif clean.isreg():
                    file = io.BytesIO(source) if isinstance(source, bytes) else source.extractfile(info)
                    tar.addfile(clean, file)
                else:
                    tar.addfile(clean)


def _clean(info: tarfile.TarInfo, path: str) -> tarfile.TarInfo:
    """A copy under `path` with ids only (names differ by machine) and no header but file capabilities."""
    clean = copy.copy(info)
    clean.name, clean.uname, clean.gname, clean.mtime = path, "", "", int(info.mtime)
    clean.pax_headers = {
        name: value for name, value in info.pax_headers.items() if name.startswith("SCHILY.xattr.")
    }
    return clean
