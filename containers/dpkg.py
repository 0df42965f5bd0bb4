"""Packages' files, and dpkg's database of them, written without running dpkg.

Every package put in this way is "unpacked" in the database: its files are there, its scripts have not run.
That is the truth, and apt and dpkg can go on from it: the next `apt-get install` in the image also configures
them.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import tarfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from msgspec import Struct

from containers.apt import Apt, Update
from containers.root_tar import RootTar
from kit import share

STATUS, INFO, TRIGGERS = "var/lib/dpkg/status", "var/lib/dpkg/info", "var/lib/dpkg/triggers"


class Package(Struct, frozen=True, kw_only=True):
    """One package, opened.

    stanza   its control file.  control: the other files beside that one, by name: lists and scripts.
    tar      its files.  paths: their names in the package's order, as dpkg lists them ("/.", "/usr").
    """

    stanza: str
    control: dict[str, bytes]
    tar: tarfile.TarFile
    paths: tuple[str, ...]

    @property
    def name(self) -> str:
        return field(self.stanza, "Package")

    @property
    def known_as(self) -> str:
        return known_as(self.stanza)


def field(stanza: str, name: str) -> str:
    """The first line of a field of a stanza, "" where it has none."""
    found = re.search(rf"(?m)^{name}:[ \t]*(.*)$", stanza)
    return found[1].strip() if found else ""


def known_as(stanza: str) -> str:
    """The name that dpkg's own files have: with the architecture where two can be installed at once."""
    name = field(stanza, "Package")
    return f"{name}:{field(stanza, 'Architecture')}" if field(stanza, "Multi-Arch") == "same" else name


@contextlib.contextmanager
def opened(apt: Apt, debs: list[Path], work: Path, update: Update) -> Iterator[list[Package]]:
    """The packages, sorted by name, with their files open for reading; `work` holds them meanwhile."""
    work.mkdir(parents=True, exist_ok=True)

    def unpack(deb: Path) -> tuple[Path, Path]:
        told, files = work / f"{deb.stem}.control.tar", work / f"{deb.stem}.files.tar"
        apt.deb("--ctrl-tarfile", deb, told, update)
        apt.deb("--fsys-tarfile", deb, files, update)
        return told, files

    with contextlib.ExitStack() as tars:
        with ThreadPoolExecutor(share.cpus()) as pool:
            pairs = list(pool.map(unpack, debs))
        found = [_read(told, tars.enter_context(tarfile.open(files))) for told, files in pairs]
        yield sorted(found, key=lambda each: each.known_as)


def _read(told: Path, files: tarfile.TarFile) -> Package:
    control: dict[str, bytes] = {}
    with tarfile.open(told) as tar:
        for info in tar:
            if info.isreg() and (file := tar.extractfile(info)):
                control[Path(info.name).name] = file.read()
    stanza = control.pop("control").decode().strip() + "\n"
    paths = ("/" + name.removeprefix(".").strip("/") for name in files.getnames())
    named = tuple("/." if path == "/" else path for path in paths)
    return Package(stanza=stanza, control=control, tar=files, paths=named)


def record(made: RootTar, packages: list[Package]) -> None:
    """Adds the packages to dpkg's database, after those that `made` lies upon; newer ones replace theirs."""
    there = stanzas(made.read(STATUS).decode()) if made.is_file(STATUS) else []
    known = {known_as(each): each for each in there}
    for package in packages:
        unpacked = package.stanza.replace("\n", "\nStatus: install ok unpacked\n", 1)
        known[package.known_as] = unpacked + _conffiles(made, package)
        _information(made, package)
    made.text(STATUS, "\n".join(known[each] for each in sorted(known)))
    _triggers(made, packages)


def stanzas(status: str) -> list[str]:
    """The entries of a status file, each ending with its newline."""
    return [each.strip("\n") + "\n" for each in re.split(r"\n{2,}", status) if each.strip()]


def _conffiles(made: RootTar, package: Package) -> str:
    """The field that tells dpkg which settings are still the maker's: it replaces them in an upgrade."""
    lines = []
    for line in package.control.get("conffiles", b"").decode().splitlines():
        path = line.split()[-1] if line.strip() else ""
        if path and not line.startswith("remove-on-upgrade") and made.is_file(path.lstrip("/")):
            content = made.read(path.lstrip("/"))
            lines.append(f" {path} {hashlib.md5(content, usedforsecurity=False).hexdigest()}\n")
    return "Conffiles:\n" + "".join(lines) if lines else ""


def _information(made: RootTar, package: Package) -> None:
    made.text(f"{INFO}/format", "1\n")
    made.text(f"{INFO}/{package.known_as}.list", "".join(f"{path}\n" for path in package.paths))
    for name, content in sorted(package.control.items()):
        script = content.startswith(b"#!")
        made.text(f"{INFO}/{package.known_as}.{name}", content, 0o755 if script else 0o644)


def _triggers(made: RootTar, packages: Iterable[Package]) -> None:
    """Who is to be told of what: dpkg notes it while unpacking, and asks no package again."""
    wanted: dict[str, set[str]] = {}
    for package in packages:
        for line in package.control.get("triggers", b"").decode().splitlines():
            words = line.partition("#")[0].split()
            if len(words) == 2 and words[0].startswith("interest"):
                later = "/noawait" if words[0] == "interest-noawait" else ""
                name = words[1] if words[1].startswith("/") else ""
                said = f"{name} {package.known_as}{later}".strip()
                wanted.setdefault("File" if name else words[1], set()).add(said)
    for name, lines in sorted(wanted.items()):
        path = f"{TRIGGERS}/{name}"
        old = made.read(path).decode().splitlines() if made.is_file(path) else []
        made.text(path, "".join(f"{line}\n" for line in [*old, *sorted(lines - set(old))]))
