"""Self-contained layers: from a spec to one tar.gz that holds one top-level folder and runs on any base.

Nothing of the target platform is run, so a layer for arm64 is built on x86 at native speed. Equal inputs give
equal bytes on every machine, as long as the distribution's archive still carries the pinned packages.
"""

from __future__ import annotations

import os
import shutil
import sysconfig
import tempfile
from collections.abc import Callable
from pathlib import Path

from msgspec import json, structs

from containers import apt, complaints, debs, secrets
from containers.interpreter import ENVIRONMENT, Interpreter
from containers.layer_tree import Layout, fill, sources_of, version
from kit import files, process, settings, share
from kit.errors import MissingToolError, UnpinnedError
from kit.nouns import LayerBuild, LayerSpec, Platform, digest, digest_file, key_of

Update = Callable[[str], None]
Files = Callable[[Platform, Path], None]
"""Puts the interpreter and the libraries of a platform below a folder, as they lie in a root file system."""

_RECIPE = ("compile_tree.py", "elf.py", "interpreter.py", "layer.py", "layer_pack.py", "layer_tree.py")
GLIBC = "2_28"  # the floor that wheels are taken for; the layer's own libc is newer


def key(spec: LayerSpec, platform: Platform) -> str:
    """64 hex digits over all that goes in. Builds, downloads and runs nothing; milliseconds."""
    here = Path(__file__).parent
    sources = "".join(f"{name} {digest_file(path)}\n" for name, path in sources_of(spec))
    return key_of(
        {
            "spec": json.encode(structs.replace(spec, locks={}, pins={}), order="deterministic").decode(),
            "lock": spec.locks.get(platform.arch, ""),
            "pins": spec.pins.get(platform.arch, ""),
            "platform": str(platform),
            "recipe": digest(b"".join((here / name).read_bytes() for name in _RECIPE)),
            "sources": digest(sources.encode()),
            "version": version(),
        }
    )


def build(
    spec: LayerSpec,
    platform: Platform,
    out: Path,
    update: Update,
    files_of: Files | None = None,
) -> LayerBuild:
    """Builds the layer and puts it at `out`, atomically. As root or any user; needs uv and patchelf.

    The interpreter and its libraries are the distribution's, by apt, or those of `files_of`. What the layer
    is made of is written to no file of it but named in the result.
    """
    lock = spec.locks.get(platform.arch)
    if lock is None:
        raise UnpinnedError(
            f"layer {spec.name} has no lock for {platform} and Python {spec.python}",
            f"runner layer {spec.name}",
        )
    patchelf = own_tool("patchelf")
    with files.beside(out.with_name(f"{out.name}.work")) as work:
        (work / "stage").mkdir(parents=True)
        layout = Layout(spec, work / "stage")
        taken: dict[Platform, list[debs.Deb]] = {}
        if files_of is None:

            def files_of(at: Platform, root: Path) -> None:
                taken[at] = fetched(spec, at, root, update)

        files_of(platform, work / "root")
        _wheels(lock, layout, platform, update)
        update("libraries")
        fill(layout, platform, work / "root", patchelf)
        update("byte code, tar, gzip")
        diff_id, unpacked = _packed(spec, platform, work, out, files_of)
    return LayerBuild(
        name=spec.name,
        key=key(spec, platform),
        platform=platform,
        path=out,
        digest=digest_file(out),
        size=out.stat().st_size,
        diff_id=diff_id,
        unpacked=unpacked,
        packages={deb.name: f"{deb.version} sha256:{deb.sha256}" for deb in taken.get(platform, [])},
    )


def fetched(spec: LayerSpec, platform: Platform, root: Path, update: Update) -> list[debs.Deb]:
    """The distribution's packages, as files below `root`. Nothing later asks where the files came from."""
    where = f"layers/{spec.name}/{spec.distribution}-{platform.arch}.packages"
    pins = debs.read_pins(spec.pins.get(platform.arch, ""), where)
    keep = settings.load().settings.cache_folder / "debs"
    # Pinned packages that are kept need no archive: a change of the kit alone asks nobody.
    if shutil.which("dpkg-deb") and (taken := debs.kept(spec.packages, pins, keep)):
        debs.extract(taken, keep, root)
        return taken
    with apt.opened(apt.sources(spec.distribution, spec.suite, platform), update) as opened:
        return debs.unpacked(opened, spec.packages, pins, root, keep, update)


def newest(spec: LayerSpec, platform: Platform, update: Update) -> str:
    """The text of a pin file: the packages of the spec as the distribution's archive has them today."""
    with apt.opened(apt.sources(spec.distribution, spec.suite, platform), update) as opened:
        taken, _ = debs.choose(spec.packages, {}, opened.offered(spec.packages))
    return "".join(f"{deb}\n" for deb in taken)


def locked(requirements: str, python: str, platform: Platform, old: str, update: Update) -> str:
    """The text of a lock of wheels: versions as in `old` where they still fit, every file's hash, no URL."""
    with tempfile.TemporaryDirectory(prefix="slipworks-lock-") as work:
        given, lock = Path(work) / "requirements.in", Path(work) / "lock"
        given.write_text(requirements)
        lock.write_text(old)
        argv = [
            str(own_tool("uv")), "pip", "compile", "--no-config", "--no-progress", "--quiet", "--no-header",
            "--generate-hashes", "--no-annotate", "--no-emit-index-url", "--only-binary", ":all:",
            "--python-platform", f"{platform.machine}-manylinux_{GLIBC}", "--python-version", python,
            "--output-file", str(lock), str(given),
        ]  # fmt: skip
        env = {**os.environ, **secrets.index_values(os.environ)}
        complaints.stream(argv, what="lock the layer's wheels", base=None, update=update, env=env)
        return lock.read_text()


def _wheels(lock: str, layout: Layout, platform: Platform, update: Update) -> None:
    """Installs exactly what the lock names, for the target platform, by this machine's uv."""
    layout.site.mkdir(parents=True)
    file = layout.stage.with_name("lock")
    file.write_text(lock)
    with secrets.gathered() as found:
        env = {**os.environ, **secrets.index_values(os.environ)}
        if found.ca:
            env["SSL_CERT_FILE"] = str(found.ca)
        argv = [
            str(own_tool("uv")), "pip", "install", "--no-config", "--no-progress", "--no-deps",
            "--require-hashes", "--only-binary", ":all:", "--link-mode", "copy", "--target", str(layout.site),
            "--python-platform", f"{platform.machine}-manylinux_{GLIBC}",
            "--python-version", layout.spec.python, "--requirements", str(file),
        ]  # fmt: skip
        what = f"install the wheels of layer {layout.spec.name}"
        complaints.stream(argv, what=what, base=None, update=update, env=env)
    # Scripts name this machine's interpreter, and the records hold hashes of them.
    for path in [layout.site / "bin", layout.site / ".lock", *layout.site.glob("*.dist-info/RECORD")]:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _packed(spec: LayerSpec, platform: Platform, work: Path, out: Path, files_of: Files) -> tuple[str, int]:
    """Byte-compiles and packs with the layer's own interpreter; its native twin for a foreign platform."""
    native, root = Platform.host(), work / "root"
    if platform != native:
        root = work / "native"
        files_of(native, root)
    python = Interpreter(root=root, program=f"{spec.prefix}/bin/python{spec.python}")
    with files.beside(out) as temporary:
        folders = [spec.folder.lstrip("/")]
        compiling = python.compiling(work / "stage", folders, Path("/"), jobs=share.cpus())
        process.run(compiling, what=f"byte-compile layer {spec.name}", env=ENVIRONMENT)
        program = Path(__file__).with_name("layer_pack.py")
        argv = python.argv(program, work / "stage", spec.folder.lstrip("/"), temporary)
        told = process.run(argv, what=f"pack layer {spec.name}", env=ENVIRONMENT)
        files.settle(temporary, out)
    hexdigest, size = told.out.split()[-2:]
    return f"sha256:{hexdigest}", int(size)


def own_tool(name: str) -> Path:
    """A program of our own environment, else of PATH."""
    own = Path(sysconfig.get_path("scripts")) / name
    if own.is_file():
        return own
    found = shutil.which(name)
    if not found:
        raise MissingToolError(f"{name} is not installed", f"pip install {name}")
    return Path(found)
