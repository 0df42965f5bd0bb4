"""Self-contained layers: from a spec to one tar.gz that holds one top-level folder and runs on any base.

Nothing of the target platform is run, so a layer for arm64 is built on x86 at native speed. Equal inputs give
equal bytes on every machine, as long as the distribution's archive still carries the pinned packages.

A layer is made in two parts. Its body is all but this kit's own sources and the spec's texts; who has kept
it (`Keep`) gives it back, and then those alone are compiled and packed: a second member of the same gzip
file, behind the body's bytes. So a body that was kept and one that is made now give the same layer.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from msgspec import json, structs

from containers import apt, complaints, debs, layer_files, secrets
from containers.interpreter import ENVIRONMENT, Interpreter
from containers.layer_tree import Layout, fill, own_packages, sources_of, version
from kit import files, process, settings, share
from kit.errors import MissingToolError, UnpinnedError
from kit.nouns import LayerBuild, LayerSpec, Platform, digest, digest_file, key_of

Update = Callable[[str], None]
Files = Callable[[Platform, Path], None]
"""Puts the interpreter and the libraries of a platform below a folder, as they lie in a root file system."""

Keep = Callable[[str, Callable[[Path], LayerBuild]], tuple[Path, dict[str, str]]]
"""From a body's key, and what makes it at a path: where the body lies, and of what packages it is made."""

_RECIPE = (
    "compile_tree.py",
    "elf.py",
    "elf_format.py",
    "interpreter.py",
    "layer.py",
    "layer_files.py",
    "layer_pack.py",
    "layer_tree.py",
)
GLIBC = "2_28"  # the floor that wheels are taken for; the layer's own libc is newer


def key(spec: LayerSpec, platform: Platform) -> str:
    """64 hex digits over all that goes in. Builds, downloads and runs nothing; milliseconds."""
    sources = "".join(f"{name} {digest_file(path)}\n" for name, path in sources_of(spec))
    texts = "".join(f"{name} {digest(text.encode())}\n" for name, text in sorted(spec.texts.items()))
    return key_of(
        {
            "body": body_key(spec, platform),
            "sources": digest((sources + texts).encode()),
            "version": version() if spec.sources else "",
        }
    )


def body_key(spec: LayerSpec, platform: Platform) -> str:
    """The same over what goes into the body."""
    here = Path(__file__).parent
    plain = structs.replace(spec, locks={}, pins={}, sources=(), texts=dict.fromkeys(spec.texts, ""))
    return key_of(
        {
            "spec": json.encode(plain, order="deterministic").decode(),
            "lock": spec.locks.get(platform.arch, ""),
            "pins": spec.pins.get(platform.arch, ""),
            "platform": str(platform),
            "recipe": digest(b"".join((here / name).read_bytes() for name in _RECIPE)),
        }
    )


def build(
    spec: LayerSpec,
    platform: Platform,
    out: Path,
    update: Update,
    files_of: Files | None = None,
    keep: Keep | None = None,
) -> LayerBuild:
    """Builds the layer and puts it at `out`, atomically. As root or any user; needs uv and patchelf.

    The interpreter and its libraries are the distribution's, by apt, or those of `files_of`. What the layer
    is made of is written to no file of it but named in the result. keep: without it the body is made anew.
    """
    with files.beside(out.with_name(f"{out.name}.work")) as work:
        work.mkdir()
        roots = _Roots(spec, files_of, work, update)

        def make(path: Path) -> LayerBuild:
            return _body(spec, platform, roots, path, update)

        if keep:
            body, packages = keep(body_key(spec, platform), make)
        else:
            made = make(work / "body")
            body, packages = made.path, made.packages
        layout = Layout(spec, work / "own")
        own_packages(layout)
        beside = layer_files.write(layout)
        update("byte code, tar, gzip")
        python = roots.python()
        _compile(python, layout)
        told = _pack(python, layout, out, sorted([*layout.site.iterdir(), *beside]), body)
    return _built(spec, platform, key(spec, platform), out, told, packages)


class _Roots:
    """The files that a layer is made of, for this machine and for the target: each put there when it is first
    asked for, and gone with `work`."""

    def __init__(self, spec: LayerSpec, files_of: Files | None, work: Path, update: Update) -> None:
        self.spec, self.files_of, self.work, self.update = spec, files_of, work, update
        self.packages: dict[Platform, dict[str, str]] = {}

    def of(self, platform: Platform) -> Path:
        root = self.work / f"root-{platform.arch}"
        if platform not in self.packages:
            taken: list[debs.Deb] = []
            if self.files_of:
                self.files_of(platform, root)
            else:
                taken = fetched(self.spec, platform, root, self.update)
            self.packages[platform] = {deb.name: f"{deb.version} sha256:{deb.sha256}" for deb in taken}
        return root

    def python(self) -> Interpreter:
        """What compiles and packs: the layer's own interpreter; its native twin for a foreign platform."""
        program = f"{self.spec.prefix}/bin/python{self.spec.python}"
        return Interpreter(root=self.of(Platform.host()), program=program)


def _body(spec: LayerSpec, platform: Platform, roots: _Roots, out: Path, update: Update) -> LayerBuild:
    """All but this kit's own packages, as a tar.gz without a tar's end: another member follows."""
    lock = spec.locks.get(platform.arch)
    if lock is None:
        raise UnpinnedError(
            f"layer {spec.name} has no lock for {platform} and Python {spec.python}",
            f"runner layer {spec.name}",
        )
    patchelf = own_tool("patchelf")
    layout = Layout(spec, roots.work / "stage")
    root = roots.of(platform)
    _wheels(lock, layout, platform, update)
    update("libraries")
    fill(layout, platform, root, patchelf)
    update("byte code, tar, gzip")
    python = roots.python()
    _compile(python, layout)
    told = _pack(python, layout, out, [layout.top])
    return _built(spec, platform, body_key(spec, platform), out, told, roots.packages[platform])


def _built(
    spec: LayerSpec, platform: Platform, key: str, out: Path, told: tuple[str, int], packages: dict[str, str]
) -> LayerBuild:
    return LayerBuild(
        name=spec.name, key=key, platform=platform, path=out, digest=digest_file(out),
        size=out.stat().st_size, diff_id=told[0], unpacked=told[1], packages=packages,
    )  # fmt: skip


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


def locked(
    requirements: str,
    python: str,
    platform: Platform,
    old: str,
    update: Update,
    source: Iterable[str] = (),
) -> str:
    """The text of a lock of wheels: versions as in `old` where they still fit, every file's hash, no URL.
    source: packages that are taken as sources."""
    with tempfile.TemporaryDirectory(prefix="slipworks-lock-") as work:
        given, lock = Path(work) / "requirements.in", Path(work) / "lock"
        given.write_text(requirements)
        lock.write_text(old)
        argv = [
            str(own_tool("uv")), "pip", "compile", "--no-config", "--no-progress", "--quiet", "--no-header",
            "--generate-hashes", "--no-annotate", "--no-emit-index-url", "--only-binary", ":all:",
            *(word for name in source for word in ("--no-binary", name)),
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
            "--require-hashes", "--only-binary", ":all:", *_sources(layout), "--link-mode", "copy",
            "--target", str(layout.site), "--python-platform", f"{platform.machine}-manylinux_{GLIBC}",
            "--python-version", layout.spec.python, "--requirements", str(file),
        ]  # fmt: skip
        what = f"install the wheels of layer {layout.spec.name}"
        complaints.stream(argv, what=what, base=None, update=update, env=env)
    layer_files.refuse_contested(layout.site)
    # Scripts name this machine's interpreter, the records hold hashes of them, and uv tells when it saw what.
    for path in [layout.site / "bin", layout.site / ".lock", *layout.site.glob("*.dist-info/RECORD"),
                 *layout.site.glob("*.dist-info/uv_*.json")]:  # fmt: skip
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _sources(layout: Layout) -> list[str]:
    """What uv is told of packages that exist as sources only."""
    spec = layout.spec
    if not spec.source:
        return []
    tools = layout.stage.with_name("tools")
    tools.write_text(spec.tools)
    options = ["--python", sys.executable, "--build-constraints", str(tools)]
    for name in spec.source:
        # uv's cache offers what it once built, whatever it was built with, unless settings differ: so there
        # is one, that no build looks at.
        setting = f"{name}:build-lock={digest(spec.tools.encode())[7:23]}"
        options += ["--no-binary", name, "--config-settings-package", setting]
    return options


def _compile(python: Interpreter, layout: Layout) -> None:
    compiling = python.compiling(layout.stage, [layout.spec.folder.lstrip("/")], Path("/"), jobs=share.cpus())
    process.run(compiling, what=f"byte-compile layer {layout.spec.name}", env=ENVIRONMENT)


def _pack(
    python: Interpreter, layout: Layout, out: Path, tops: Iterable[Path], body: Path | None = None
) -> tuple[str, int]:
    """Packs folders of a stage, behind a body where one is given. Returns the tar's diff_id and size."""
    names = [path.relative_to(layout.stage) for path in tops]
    with files.beside(out) as temporary:
        program = Path(__file__).with_name("layer_pack.py")
        argv = python.argv(program, temporary, body or "", layout.stage, *names)
        told = process.run(argv, what=f"pack layer {layout.spec.name}", env=ENVIRONMENT)
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
