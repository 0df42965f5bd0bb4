"""Root file systems from a distribution's packages: a base image without any registry, and without root.

For every platform alike, the packages' files are put together and nothing of them is run: what their
scripts would have made and images need is made by hand (`by_hand`), and so is the loader's cache. dpkg's
database lists the packages as unpacked, and apt in the image goes on from there.

No mirror, proxy or host name of this machine remains in the result: its sources.list only says so.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from containers import apt, by_hand, dpkg, ld_cache
from containers.apt import Apt, Update, host_distribution
from containers.interpreter import ENVIRONMENT, Interpreter
from containers.root_tar import RootTar
from kit import files, process, share
from kit.nouns import Base, Platform

__all__ = ["host_distribution", "root"]

SOURCES = """\
# No sources: this root was made from its maker's own mirror, which is not recorded here.
# Write your distribution's or your site's mirror here before using apt.
"""
MINIMAL = ("?essential", "apt", "login", "mount", "passwd")
"""A minimal system: the essential packages, and those of priority required."""
OLDEST = (3, 11)  # the first Python that can be run apart from its machine's settings (-P)


def root(
    base: Base, platform: Platform, out: Path, update: Update, python: Interpreter | None = None
) -> None:
    """Writes a tar of a minimal root file system with `base.packages` at `out`, atomically.

    python: a native one of the base's version, that byte-compiles; None: the base's own where this machine
    can run it, else the same packages' for this machine.
    Equal packages give equal bytes, on every machine and for every user. HostError or MissingToolError where
    this machine cannot.
    """
    sources = apt.sources(base.distribution, base.suite, platform)
    with (
        files.beside(out.with_name(f"{out.name}.work")) as work,
        files.beside(out) as temporary,
        files.space_named(out),
    ):
        work.mkdir(mode=0o755)
        with apt.opened(sources, update) as opened:
            debs = opened.download_closure([*MINIMAL, *base.packages], work / "debs", update)
            with dpkg.opened(opened, debs, work / "tars", update) as packages:
                made = _put_together(packages, platform)
                _byte_code(made, base, packages, platform, work, update, python)
                made.write(temporary)
        files.settle(temporary, out)


def _put_together(packages: list[dpkg.Package], platform: Platform) -> RootTar:
    made = RootTar()
    for package in packages:
        made.add(package.tar)
    dpkg.record(made, packages)
    by_hand.root(made)
    ld_cache.refresh(made, platform)
    made.text("etc/apt/sources.list", SOURCES)
    made.text("etc/machine-id", "")
    for name, mode in (("dev", 0o755), ("proc", 0o755), ("sys", 0o755), ("tmp", 0o1777)):
        made.folder(name, mode)
    return made


def _byte_code(
    made: RootTar, base: Base, packages: list[dpkg.Package], platform: Platform, work: Path, update: Update,
    given: Interpreter | None,
) -> None:  # fmt: skip
    """Adds the byte code of the distribution's Python, made by a native Python of the same version."""
    if tuple(map(int, base.python.split("."))) < OLDEST or not made.is_file(base.interpreter):
        return
    update(f"byte code of Python {base.python}")
    tops = [f"usr/lib/python{base.python}", "usr/lib/python3/dist-packages"]
    folders = [each for each in tops if made.names(each)]
    stage, native = work / "stage", work / "native"
    sources = re.compile(rf"({'|'.join(map(re.escape, folders))})/.*\.py")
    made.unpack(stage, lambda path: bool(sources.fullmatch(path)))
    own = (
        contextlib.nullcontext(given) if given else _runnable(made, base, packages, platform, native, update)
    )
    with own as python:
        argv = python.compiling(stage, folders, Path("/"), jobs=share.cpus())
        process.run(argv, what=f"byte-compile Python {base.python}", env=ENVIRONMENT)
    for path in sorted(stage.rglob("*.pyc")):
        name = str(path.relative_to(stage))
        made.folder(name.rpartition("/")[0])
        made.text(name, path.read_bytes())


@contextlib.contextmanager
def _runnable(
    made: RootTar, base: Base, packages: list[dpkg.Package], platform: Platform, into: Path, update: Update
) -> Iterator[Interpreter]:
    """The base's own Python where this machine can run it, else the same packages' for this machine."""
    library = rf"usr/lib/python{re.escape(base.python)}/.*"
    if platform == Platform.host():
        needed = re.compile(rf"usr/bin/python[^/]*|{library}|usr/lib(64|/[^/]*-linux-gnu)?/[^/]*\.so[^/]*")
        made.unpack(into, lambda path: bool(needed.fullmatch(path)))
    else:
        program = base.interpreter.lstrip("/")
        wanted = re.compile(rf"/({re.escape(program)}|{library})")
        names = [each.name for each in packages if any(map(wanted.fullmatch, each.paths))]
        given = apt.sources(base.distribution, base.suite, Platform.host())
        with apt.opened(given, update) as here:
            _extract(here, here.download_closure(names, into.with_name("native.debs"), update), into, update)
    yield Interpreter(root=into, program=base.interpreter)


def _extract(here: Apt, debs: list[Path], into: Path, update: Update) -> None:
    with dpkg.opened(here, debs, into.with_name("native.tars"), update) as packages:
        made = RootTar()
        for package in packages:
            made.add(package.tar)
        made.unpack(into, lambda _path: True)
