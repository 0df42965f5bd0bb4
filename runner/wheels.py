"""Extensions of a stack: which of them the wheelhouse has for an image, and what a wheel for it must be.

Images take what the wheelhouse has and say what is missing. How a wheel gets there: wheel_making.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct, json

from containers import native_build
from definitions import archs, extensions, lines, lockfile
from definitions.archs import Arch
from definitions.extensions import Extension
from definitions.lines import Line
from image_cache.wheel_file import Target
from image_cache.wheelhouse import Wheelhouse
from kit import settings
from kit.errors import SlipworksError, UnsupportedError
from kit.nouns import Base, Platform, Wheel, digest, key_of
from kit.shell import line as line_of

if TYPE_CHECKING:
    from runner.planning import Wanted


class Order(Struct, frozen=True, kw_only=True):
    """One extension for one kind of image."""

    extension: Extension
    arch: Arch
    line: Line
    base: Base
    platform: Platform
    torch: str

    @property
    def purpose(self) -> dict[str, str]:
        """All that a wheel is for, and made by. The base is named for its C and C++ libraries."""
        return {
            "extension": self.extension.name,
            "version": self.extension.version,
            "platform": str(self.platform),
            "python": self.base.python,
            "torch": f"{self.torch}, CUDA {self.line.cuda}",
            "capabilities": " ".join(self.arch.compute_capabilities),
            "base": f"{self.base.distribution} {self.base.suite}",
            "sources": f"sha256:{self.extension.sha256}",
            "environment": json.encode(self.extension.environment, order="sorted").decode(),
            "made by": digest(Path(native_build.__file__).read_bytes()),
        }

    @property
    def key(self) -> str:
        return key_of(self.purpose)

    @property
    def target(self) -> Target:
        return Target(platform=self.platform, python=self.base.python, glibc=self.line.glibc)

    @property
    def words(self) -> list[str]:
        """The command that asks for it."""
        return ["runner", "image", "wheel", self.extension.name, "--arch", self.arch.name,
                *(["--line", self.line.name] if self.line.name != self.arch.line else []),
                *(["--base", self.base.name] if self.base.name != self.arch.base else [])]  # fmt: skip

    def published(self) -> str:
        """The command that takes a published wheel instead."""
        return line_of([*self.words, "--from"]) + " URL --sha256 HEX"


def house() -> Wheelhouse:
    """The wheelhouse of this user's settings."""
    return Wheelhouse(settings.load().settings.cache_folder / "wheels")


def found(
    line: Line, arch: Arch, platform: Platform, base: Base, wheelhouse: Wheelhouse | None = None
) -> tuple[tuple[Wheel, ...], tuple[str, ...]]:
    """Of the line's extensions, the wheels that the wheelhouse has for such an image, and the names that it
    lacks. Never raises: what is wrong with line or lock the recipe says. Milliseconds."""
    shelf = wheelhouse or house()
    wheels: list[Wheel] = []
    missing: list[str] = []
    for name in line.extensions:
        try:
            kept = shelf.find(_order(extensions.load(name), arch, line, base, platform).key)
        except SlipworksError:
            kept = None
        if kept:
            wheels.append(kept.wheel)
        else:
            missing.append(name)
    return tuple(sorted(wheels)), tuple(missing)


def ordered(name: str, wanted: Wanted) -> Order:
    """The order for an extension. UnknownNameError with a did-you-mean; UnsupportedError where it would go
    into no image, or into one without a GPU."""
    from runner import planning  # which asks `found`

    extension = extensions.load(name)
    arch = archs.load(wanted.arch)
    line = lines.load(wanted.line or arch.line)
    base = planning.base_of(wanted.base or arch.base)
    there = arch.all_platforms()
    platform = Platform.parse(wanted.platform) if wanted.platform else _usual(there)
    if platform not in there:
        raise UnsupportedError(
            f"arch {arch.name} is not made for {platform}: it has {' and '.join(map(str, there))}"
        )
    if not arch.compute_capabilities or not line.cuda:
        raise UnsupportedError(
            f"{extension.name} is CUDA code: arch {arch.name} with line {line.name} has no GPU"
        )
    if extension.name not in line.extensions:
        raise UnsupportedError(
            f"line {line.name} names no extension {extension.name}: its images would not take the wheel"
            f" (it names {', '.join(line.extensions) or 'none'})",
            f"add it to extensions in {line.folder / 'line.toml'}, then make lock LINE={line.name}",
        )
    return _order(extension, arch, line, base, platform)


def _usual(there: tuple[Platform, ...]) -> Platform:
    return Platform.host() if Platform.host() in there else there[0]


def _order(extension: Extension, arch: Arch, line: Line, base: Base, platform: Platform) -> Order:
    lock = lock_of(line, platform, base.python)
    return Order(extension=extension, arch=arch, line=line, base=base, platform=platform,
                 torch=lock.version("torch") or "none")  # fmt: skip


def lock_of(line: Line, platform: Platform, python: str) -> lockfile.Lock:
    path = line.lock(platform, python)
    return lockfile.parse(path.read_text(), str(path))
