"""The folder that a self-contained layer is: interpreter, loader, libraries and packages in one place.

    bin/<entry>            executables; nothing else, so that the folder can be added to any PATH
    …                      what the spec takes of the packages beside: programs and their data
    python/bin, python/lib the interpreter and its standard library
    python/site            wheels, and the packages of this kit
    lib/                   the loader and every shared library that any file here needs
    licenses/<package>     what the distribution's packages demand to be shown

Programs name the loader by its absolute path and search `lib` by DT_RPATH: it wins over LD_LIBRARY_PATH and
the base's ld.so.cache, holds for libraries loaded later too, and is inherited by no child process.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import kit
from containers import elf, layer_files
from containers.interpreter import library_folders
from kit import process
from kit.errors import BuildError, VerifyError
from kit.nouns import LayerSpec, Platform

_LOADERS = {"x86_64": "ld-linux-x86-64.so.2", "aarch64": "ld-linux-aarch64.so.1"}

_ENTRY = """\
#!{python} -I
import os
import sys

# In a C locale the interpreter sets LC_CTYPE for itself; children must see the environment we were given.
try:
    with open("/proc/self/environ", "rb") as told:
        given = dict(each.split(b"=", 1) for each in told.read().split(b"\\0") if b"=" in each)
except OSError:
    pass
else:
    os.environ.pop("LC_CTYPE", None)
    if b"LC_CTYPE" in given:
        os.environb[b"LC_CTYPE"] = given[b"LC_CTYPE"]

from {module} import {function}

sys.exit({function}())
"""


class Layout:
    """Where things lie: below `stage` on this machine, below `folder` where the layer will be used."""

    def __init__(self, spec: LayerSpec, stage: Path) -> None:
        self.spec = spec
        self.stage = stage
        self.top = stage / spec.folder.lstrip("/")
        self.python = f"{spec.folder}/python/bin/python{spec.python}"
        self.lib = f"{spec.folder}/lib"

    def here(self, path: str) -> Path:
        """A path of the layer as a path of this machine."""
        return self.stage / path.lstrip("/")

    @property
    def site(self) -> Path:
        return self.top / "python/site"


def sources_of(spec: LayerSpec) -> Iterator[tuple[str, Path]]:
    """(name in the layer, file) of all files of this kit that ride along, in a fixed order."""
    above = Path(kit.__file__).parents[1]
    for package in spec.sources:
        for path in sorted((above / package).rglob("*")):
            name = path.relative_to(above)
            if path.is_file() and not any(part.startswith((".", "__pycache__")) for part in name.parts):
                yield str(name), path


def version() -> str:
    """The kit's own version, as installed."""
    from importlib import metadata

    try:
        return metadata.version("slipworks")
    except metadata.PackageNotFoundError:
        return "0"


def fill(layout: Layout, platform: Platform, root: Path, patchelf: Path) -> None:
    """Makes the folder from packages unpacked below `root`, but for what is in `site`: the wheels, which are
    there already, and this kit's own packages."""
    _interpreter(layout, root)
    layer_files.put(layout, root)
    _entries(layout)
    _leave_out(layout)
    _libraries(layout, platform, root)
    _patch(layout, patchelf)
    _licenses(layout, root)
    check(layout, platform)


def _interpreter(layout: Layout, root: Path) -> None:
    spec = layout.spec
    program = layout.here(layout.python)
    program.parent.mkdir(parents=True)
    prefix = root / spec.prefix.lstrip("/")
    shutil.copyfile(prefix / f"bin/python{spec.python}", program)
    program.chmod(0o755)
    library = f"lib/python{spec.python}"
    shutil.copytree(prefix / library, layout.top / "python" / library, symlinks=True)
    for path in list((layout.top / "python" / library).rglob("*")):
        if path.is_symlink() and path.readlink().is_absolute():
            path.unlink()  # it would name a file of the base (Debian's sitecustomize.py does)
    # With this file the interpreter takes these folders and no others, whoever starts it and in whatever
    # environment: no PYTHONPATH, no user's or base's packages, not the working directory.
    paths = [f"../{library}", f"../{library}/lib-dynload", "../site"]
    program.with_name(f"{program.name}._pth").write_text("".join(f"{path}\n" for path in paths))


def _leave_out(layout: Layout) -> None:
    for pattern in (*layout.spec.leave_out, "**/__pycache__"):
        above = layout.top if pattern.startswith("/") else layout.top / "python"
        for path in list(above.glob(pattern.lstrip("/"))):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def own_packages(layout: Layout) -> None:
    """Puts this kit's own packages into `site`: nothing of them depends on the platform."""
    layout.site.mkdir(parents=True, exist_ok=True)
    for name, path in sources_of(layout.spec):
        target = layout.site / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    if layout.spec.sources:
        about = layout.site / f"slipworks-{version()}.dist-info"
        about.mkdir(parents=True)
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: slipworks\nVersion: {version()}\n")


def _entries(layout: Layout) -> None:
    for name, target in layout.spec.entries.items():
        module, _, function = target.partition(":")
        path = layout.top / "bin" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_ENTRY.format(python=layout.python, module=module, function=function))
        path.chmod(0o755)


def _libraries(layout: Layout, platform: Platform, root: Path) -> None:
    """Copies the loader, the libraries that the spec names, and whatever any file here needs, to `lib`."""
    inside, packages = elf.Tree(layout.stage), elf.Tree(root)
    target = layout.here(layout.lib)
    target.mkdir(parents=True)
    wanted = {_LOADERS[platform.machine], *layout.spec.libraries}
    folders = library_folders(platform, layout.spec.prefix)
    while wanted:
        for name in sorted(wanted):
            found = packages.find(name, folders)
            if not found:
                raise BuildError(
                    f"nothing that layer {layout.spec.name} is made of holds {name}, needed on {platform}"
                )
            shutil.copyfile(found, target / name)
            (target / name).chmod(0o755 if name in _LOADERS.values() else 0o644)
        missing = inside.missing(layout.spec.folder, [layout.lib])
        wanted = {name for names in missing.values() for name in names}


def _patch(layout: Layout, patchelf: Path) -> None:
    """Programs get our loader and search path; so do libraries whose own RUNPATH would hide the programs'."""
    tree = elf.Tree(layout.stage)
    for path in tree.files(layout.spec.folder):
        claims = tree.read(path)
        options: list[str] = []
        if _is_program(claims):
            options += ["--set-interpreter", f"{layout.lib}/{_LOADERS[claims.machine]}"]
        if _is_program(claims) or claims.runpath:
            search = ":".join([*claims.rpath, *claims.runpath, layout.lib])
            options += ["--force-rpath", "--set-rpath", search]
        if options:
            process.run([patchelf, *options, path], what=f"set the loader's path of {path.name}")


def _is_program(claims: elf.ElfFile) -> bool:
    """Whether it is there to be started. libc.so.6 names a loader too, but is a library: left as it is."""
    return claims.interpreter is not None and claims.soname is None


def _licenses(layout: Layout, root: Path) -> None:
    for copyright in sorted((root / "usr/share/doc").glob("*/copyright")):
        target = layout.top / "licenses" / copyright.parent.name
        if copyright.is_file():
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(copyright, target)


def check(layout: Layout, platform: Platform) -> None:
    """VerifyError where a file is for another machine, names a loader or library outside, or needs an
    executable stack. Runs nothing, so it holds for every platform."""
    tree = elf.Tree(layout.stage)
    loader = f"{layout.lib}/{_LOADERS[platform.machine]}"
    for path in tree.files(layout.spec.folder):
        claims, name = tree.read(path), path.relative_to(layout.stage)
        if claims.machine != platform.machine:
            raise VerifyError(f"{name} is for {claims.machine}, expected {platform.machine}")
        if _is_program(claims) and claims.interpreter != loader:
            raise VerifyError(f"{name} is loaded by {claims.interpreter}, expected {loader}")
        if claims.executable_stack:
            raise VerifyError(f"{name} asks for an executable stack, which new loaders refuse")
    if lost := tree.missing(layout.spec.folder, [layout.lib]):
        path, names = next(iter(lost.items()))
        raise VerifyError(f"{path.relative_to(layout.stage)} needs {', '.join(names)}, not in the layer")
