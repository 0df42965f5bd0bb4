"""The layer of distribution packages that an image needs and its base lacks: compilers, InfiniBand, git.

Put together from the packages' files on top of the unpacked base, of any platform; nothing is run. What is
true of a bootstrapped base's packages (see `bootstrap`) is true of these.
"""

from __future__ import annotations

from pathlib import Path

from containers import apt, by_hand, dpkg, ld_cache
from containers.apt import Update
from containers.root_tar import RootTar
from kit import files
from kit.errors import UnsupportedError
from kit.nouns import Base, Platform


def build(
    root: Path,
    base: Base,
    packages: tuple[str, ...],
    platform: Platform,
    out: Path,
    update: Update,
    native: Path | None = None,
) -> None:
    """Writes a tar of the packages and all that they depend on, less what the base has, at `out`, atomically.

    `root` holds the base's files, the caller's own; nothing there is changed. Packages of the base that are
    too old for the new ones come again, newer. Equal bases and packages give equal bytes. `native`: see
    `apt.sources`; it may be `root`. Errors as `bootstrap`'s; UnsupportedError where the base is not dpkg's.
    """
    status = root / dpkg.STATUS
    if not status.is_file():
        raise UnsupportedError(
            f"cannot add packages to base {base.name}: it has no /{dpkg.STATUS}, as Debian's have"
        )
    sources = apt.sources(base.distribution, base.suite, platform, native)
    with (
        files.beside(out.with_name(f"{out.name}.work")) as work,
        files.beside(out) as temporary,
        files.space_named(out),
    ):
        work.mkdir(mode=0o755)
        with apt.opened(sources, update, status.read_bytes()) as opened:
            debs = opened.download_closure(packages, work / "debs", update)
            with dpkg.opened(opened, debs, work / "tars", update) as found:
                put_together(RootTar(root), found, platform).write(temporary)
        files.settle(temporary, out)


def put_together(made: RootTar, packages: list[dpkg.Package], platform: Platform) -> RootTar:
    """The packages' files, and what follows from them in the base below."""
    if packages:
        for package in packages:
            made.add(package.tar)
        dpkg.record(made, packages)
        by_hand.settled(made)
        ld_cache.refresh(made, platform)
    return made
