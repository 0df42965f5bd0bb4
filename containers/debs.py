"""Distribution packages as files: chosen by pin, checked by hash, unpacked without running their scripts."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from msgspec import Struct

from containers.apt import Apt, Update
from kit import files as kit_files
from kit import process, share
from kit.errors import HashMismatchError, InvalidFileError, NotFoundError
from kit.nouns import digest_file
from kit.say import once


class Deb(Struct, frozen=True, order=True):
    """One package of a certain version; sha256 in hex."""

    name: str
    version: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.name} {self.version} {self.sha256}"


def read_pins(text: str, where: str) -> dict[str, Deb]:
    """name -> pin, from lines of `package version sha256`; empty lines and # lines are skipped."""
    pins: dict[str, Deb] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 3 or len(words[2]) != 64:
            raise InvalidFileError(
                f"{where}, line {number}: expected `package version sha256`, found {line!r}"
            )
        pins[words[0]] = Deb(*words)
    return pins


def choose(
    packages: Iterable[str], pins: Mapping[str, Deb], offered: Mapping[str, Mapping[str, str]]
) -> tuple[list[Deb], list[str]]:
    """What to take of each package, and a remark for each that is not the pinned one. Pure.

    A pinned version that the archive carries is taken; its hash must be the pinned one. One that it no longer
    carries (a point release) gives way to the newest signed one, so that a clone keeps working for years.
    """
    taken: list[Deb] = []
    remarks: list[str] = []
    for name in packages:
        versions = offered.get(name)
        if not versions:
            raise NotFoundError(f"the distribution offers no package {name}")
        pin = pins.get(name)
        if pin and pin.version in versions:
            if versions[pin.version] != pin.sha256:
                raise HashMismatchError(
                    f"{name} {pin.version}: the mirror offers sha256 {versions[pin.version]}, "
                    f"pinned is {pin.sha256}"
                )
            taken.append(pin)
            continue
        version = next(iter(versions))
        taken.append(Deb(name, version, versions[version]))
        if pin:
            remarks.append(f"{name} {version} for {pin.version}")
    return sorted(taken), remarks


def kept(packages: Iterable[str], pins: Mapping[str, Deb], folder: Path) -> list[Deb] | None:
    """The pins of all packages, where `folder` has every one of them whole; else None. Nothing is asked."""
    wanted = [pins.get(name) for name in packages]
    found = [pin for pin in wanted if pin and _whole(folder / f"{pin.sha256}.deb", pin)]
    return sorted(found) if len(found) == len(wanted) else None


def _whole(path: Path, pin: Deb) -> bool:
    return path.is_file() and digest_file(path) == f"sha256:{pin.sha256}"


def extract(taken: Iterable[Deb], folder: Path, root: Path) -> None:
    """Unpacks kept packages below `root`, several at once: they share folders, and no files."""
    from concurrent.futures import ThreadPoolExecutor

    root.mkdir(parents=True, exist_ok=True)

    def unpack(deb: Deb) -> None:
        process.run(["dpkg-deb", "--extract", folder / f"{deb.sha256}.deb", root], what=f"unpack {deb.name}")

    with ThreadPoolExecutor(share.cpus()) as pool:
        for _ in pool.map(unpack, taken):  # raises what one of them raised
            pass


def unpacked(
    apt: Apt, packages: Iterable[str], pins: Mapping[str, Deb], root: Path, keep: Path, update: Update
) -> list[Deb]:
    """Downloads the packages to `keep` and unpacks them below `root`; returns what was taken."""
    packages = list(packages)
    taken, remarks = choose(packages, pins, apt.offered(packages))
    if remarks:
        once(
            "the archive no longer carries some pinned packages, so the layer's digest will differ; "
            f"taken are {'; '.join(remarks)}"
        )
    into = root.with_name(root.name + ".debs")
    files = apt.download({each.name: each.version for each in taken}, into, update)
    got = {digest_file(file).removeprefix("sha256:"): file for file in files}
    for deb in taken:
        if deb.sha256 not in got:
            raise HashMismatchError(f"{deb.name} {deb.version}: no downloaded file has sha256 {deb.sha256}")
        with kit_files.beside(keep / f"{deb.sha256}.deb") as temporary:
            shutil.copyfile(got[deb.sha256], temporary)
            kit_files.settle(temporary, keep / f"{deb.sha256}.deb")
    extract(taken, keep, root)
    return taken
